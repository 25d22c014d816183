"""A man in the middle: passes TCP connections on, and spoils signatures when asked to."""

import contextlib
import re
import socket
import threading
from types import TracebackType

_SIGNATURE = re.compile(rb'("signature":")([0-9a-f])')


class Proxy:
    """Listens on a port of its own and connects each client to `target`, until the end of the block.

    Attributes:
        spoiling: while it is set, the first digit of every signature that the server sends is changed.
        spoiled: how many were.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.spoiling = False
        self.spoiled = 0
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    @property
    def url(self) -> str:
        """The base URL that SDKs are given."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for sock in (self._listener, *self._sockets):
            sock.close()

    def _start(self, run: "object", *args: object) -> None:
        assert callable(run)
        thread = threading.Thread(target=run, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                self._start(self._pass_on, client, server, False)
                self._start(self._pass_on, server, client, True)

    def _pass_on(self, source: socket.socket, target: socket.socket, from_server: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 20):
                if from_server and self.spoiling:
                    data, count = _SIGNATURE.subn(_spoil, data)
                    self.spoiled += count
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def _spoil(match: "re.Match[bytes]") -> bytes:
    return match[1] + (b"0" if match[2] != b"0" else b"1")
