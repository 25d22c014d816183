"""Commands run in this process, on a Redis of their own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner, Result

from broker.cli.app import signalbox
from tests.conftest import Valkey


@attrs.frozen
class Shell:
    """Runs `signalbox` with the configuration of a broker that uses the test's Redis."""

    config: Path

    def __call__(self, *args: str, status: int = 0, stdin: str | bytes | None = None) -> Result:
        """Run a command; its exit status must be `status`, and no traceback may ever show."""
        extra = ["--config", str(self.config)] if "--help" not in args else []
        result = CliRunner().invoke(signalbox, [*args, *extra], input=stdin, prog_name="signalbox")
        assert result.exit_code == status, result.output + repr(result.exception)
        assert "Traceback" not in result.output
        return result

    def json(self, *args: str, status: int = 0) -> list[dict[str, Any]]:
        """Run a command with --json and return the objects that it printed, one per line and nothing else."""
        lines = self(*args, "--json", status=status).stdout.splitlines()
        return [json.loads(line) for line in lines]

    def json_line(self, *args: str, status: int = 0) -> dict[str, Any]:
        """Run a command that prints exactly one object."""
        (line,) = self.json(*args, status=status)
        return line


@pytest.fixture
def shell(valkey: Valkey, write_config: Callable[[str], Path]) -> Shell:
    """Return a way to run commands on the test's Redis."""
    return Shell(write_config(f'[redis]\nurl = "{valkey.url}"\n'))


@pytest.fixture
def write_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return a way to write a configuration file; what the environment says about one is taken away."""
    for name in ("SIGNALBOX_CONFIG", "SIGNALBOX_TOKEN", "SIGNALBOX_SECRET", "SIGNALBOX_DEBUG"):
        monkeypatch.delenv(name, raising=False)

    def write(text: str) -> Path:
        path = tmp_path / "signalbox.toml"
        path.write_text(text)
        return path

    return write
