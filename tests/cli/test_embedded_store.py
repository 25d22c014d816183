"""Commands and the embedded store of a broker on this machine."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from broker.cli import target
from broker.link.embedded import EmbeddedServer
from tests.cli.conftest import Shell


async def test_a_store_that_hangs(
    write_config: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    """Whether there is no broker, or one whose store does not answer, is told apart."""
    monkeypatch.setattr(target, "_REPLY_TIMEOUT", 0.2)
    data = tmp_path / "data"
    shell = Shell(write_config(f'[redis]\nurl = "embedded"\ndata_dir = "{data}"\n'))
    assert "no broker with an embedded store runs here" in shell("status", "acme", status=1).stderr
    server = EmbeddedServer(data)
    await nursery.start(server.run)
    assert server.pid is not None
    await trio.to_thread.run_sync(shell, "status", "acme")
    os.kill(server.pid, signal.SIGSTOP)
    try:
        hung = await trio.to_thread.run_sync(lambda: shell("status", "acme", status=1))
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert "its embedded store does not answer" in hung.stderr


@pytest.mark.parametrize("name", ["a%20b?c#d", "a b", "ä"])
async def test_a_directory_with_any_name(
    name: str, write_config: Callable[[str], Path], tmp_path: Path, nursery: trio.Nursery
) -> None:
    """Commands find the store of a broker whatever characters are in its path."""
    data = tmp_path / name
    server = EmbeddedServer(data)
    await nursery.start(server.run)
    shell = Shell(write_config(f'[redis]\nurl = "embedded"\ndata_dir = "{data}"\n'))
    await trio.to_thread.run_sync(shell, "status", "acme")


def test_a_broker_that_is_down(shell: Shell) -> None:
    """`tail` says in the system's words why it cannot connect."""
    refused = shell("tail", "--url", "http://127.0.0.1:1", "--token", "nr_live_x", "workflow:a", status=1)
    assert refused.stderr == "signalbox: ws://127.0.0.1:1/ws/: Connection refused.\n"
