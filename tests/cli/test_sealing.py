"""The command line and a broker with a master key."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Shell
from tests.cli.test_against_a_broker import line, tailing
from tests.conftest import Valkey
from tests.support.process import broker_process


@pytest.fixture
def master_key(tmp_path: Path) -> Path:
    """Return a file with a master key."""
    path = tmp_path / "master"
    path.write_text("ab" * 32)
    return path


@pytest.fixture
def shell(valkey: Valkey, write_config: Callable[[str], Path], master_key: Path) -> Shell:
    """Return a way to run commands with that master key."""
    return Shell(
        write_config(
            f'[redis]\nurl = "{valkey.url}"\nmaster_key_file = "{master_key}"\n'
            '[server]\nbind = "127.0.0.1:0"\n[admin]\nbind = "127.0.0.1:0"\n'
        )
    )


def contents(valkey: Valkey) -> str:
    """All that stands in Redis about keys."""
    names = valkey.client.keys("signalbox:key:*")
    return "".join(str(valkey.client.hgetall(str(name, "ascii"))) for name in names)  # type: ignore[arg-type]


def test_sealed_keys_work(shell: Shell, valkey: Valkey) -> None:
    """With a master key no secret stands in Redis, and an agent signs, is killed and confirms as ever."""
    key = shell.json_line("keys", "add", "--org", "acme", "--workflow", "wf")
    rotated = shell.json_line("keys", "rotate", key["key_id"])
    for secret in (key["secret_key"], rotated["secret_key"]):
        assert secret not in contents(valkey)
    with (
        broker_process(shell.config) as broker,
        tailing(broker, {**key, "secret_key": rotated["secret_key"]}, "control:acme") as process,
    ):
        assert line(process)["type"] == "initial_state"
        *_, summary = shell.json("kill", "acme", "wf", "--wait", "10")
        assert (summary["agents"], summary["confirmed"]) == (1, 1)


@pytest.mark.parametrize(
    ("key", "sentence"),
    [("cd" * 32, "bring the old one back"), ("cd", "64 hex digits"), (None, "cannot be read")],
)
def test_another_master_key(shell: Shell, master_key: Path, key: str | None, sentence: str) -> None:
    """With another master key, with nonsense or with none, commands and the broker say so and touch nothing."""
    shell("keys", "add", "--org", "acme")
    master_key.unlink() if key is None else master_key.write_text(key)
    refused = shell("keys", "add", "--org", "acme", status=1)
    assert sentence in refused.stderr
    assert len(shell.json("keys", "list")) == 1
    result = subprocess.run(
        [sys.executable, "-m", "broker", "serve", "--config", str(shell.config)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 1
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_sealing_and_changing_the_master_key(shell: Shell, valkey: Valkey, master_key: Path, tmp_path: Path) -> None:
    """Keys from before are sealed with `keys seal`, and re-sealed with another master key with --from."""
    config = shell.config.read_text()
    shell.config.write_text(config.replace("master_key_file", "#master_key_file"))
    key = shell.json_line("keys", "add", "--org", "acme")
    assert key["secret_key"] in contents(valkey)
    assert "there is no master key" in shell("keys", "seal", status=1).stderr
    shell.config.write_text(config)
    assert shell.json_line("keys", "seal") == {"type": "sealed", "keys": 1, "changed": 1, "dropped": []}
    assert key["secret_key"] not in contents(valkey)
    former = tmp_path / "former"
    former.write_text(master_key.read_text())
    master_key.write_text("cd" * 32)
    assert "revoke the key" in shell("keys", "seal", status=1).stderr
    assert "Sealed the secrets of 1 key of 1." in shell("keys", "seal", "--from", str(former)).stdout
    assert shell.json_line("keys", "rotate", key["key_id"])["version"] == 2
