"""Real servers for these tests: started, killed, stalled and started again at will."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import pytest
import redis
import trio

from broker.link.address import Address
from broker.link.embedded import find_server

DEADLINE = 20.0
ANY_PORT_TRIES = 3


async def eventually(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait for something that a foreign process does; it has no event to wait for. Works under a mock clock too."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true in {DEADLINE:g} s"
        await trio.lowlevel.checkpoint()
        time.sleep(0.001)


def debian_redis() -> Path:
    """Debian's redis-server, the one with TLS; skips the test where it is not installed."""
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("no redis-server on PATH: TLS and Redis itself are not tested")
    return Path(found)


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """One server in a directory of its own, on a unix socket and whatever else `options` say."""

    def __init__(self, *options: str | Path, program: Path | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="sbx-"))
        self.path = self.directory / "s"
        self.options = options
        self.program = program or find_server()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self.directory)

    @property
    def address(self) -> Address:
        return Address(path=str(self.path))

    @property
    def client(self) -> redis.Redis:
        """A plain synchronous client, to play the others."""
        return redis.Redis(unix_socket_path=str(self.path))

    def command(self, *args: str) -> object:
        """Run any command as the default user."""
        reply: object = self.client.execute_command(*args)  # type: ignore[no-untyped-call]
        return reply

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.path.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [
                *(self.program, "--port", "0", "--save", "", "--dir", self.directory, "--unixsocket", self.path),
                *self.options,
            ],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(str(self.path))
                    probe.sendall(b"PING\r\n")
                    if not probe.recv(64).startswith(b"-LOADING"):
                        return
            except OSError:
                pass
            assert self._process.poll() is None, "the server ended at once"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.002)

    def kill(self) -> None:
        """Kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stall(self) -> None:
        """Stop it in its tracks; it answers nothing and closes nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
