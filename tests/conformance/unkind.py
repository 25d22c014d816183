"""Sockets that behave as badly as POSIX allows: they give little and take little at a time.

`recv` and `send` may move fewer bytes than they were asked to, and a non-blocking `send` may take none at all. Under
load a kernel does all of it; here it happens to nearly every call, in an order that a seed decides.
"""

import random
import socket

__all__ = ["UnkindListener"]

REFUSALS = 4
"""One send in so many is refused, as if the buffer were full."""

PARTS = 16
"""Of a long write up to this part is taken, so that even the longest ends in a few hundred steps."""


class UnkindSocket(socket.socket):
    """A connection whose every read gives at most `read` bytes (0: all), and whose writes are cut if `write` is set."""

    read = 0
    write = 0
    chance: random.Random

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Give between 1 and `read` bytes."""
        if self.read:
            size = min(size, self.chance.randint(1, self.read))
        return super().recv(size, flags)

    def send(self, data: bytes, flags: int = 0, /) -> int:  # type: ignore[override]
        """Take a part of `data`, or refuse."""
        if self.write:
            if not self.chance.randrange(REFUSALS):
                raise BlockingIOError
            taken = self.chance.randint(1, max(self.write, len(data) // PARTS))
            return super().send(memoryview(data)[:taken], flags)
        return super().send(data, flags)


class UnkindListener(socket.socket):
    """A listening socket on loopback whose connections are all unkind.

    Args:
        port: 0 takes any free one.
        read: how many bytes a read gives at the most; 0 for as many as there are.
        write: how many bytes of a short write are taken at the most; 0 for as many as fit.
        send_buffer: SO_SNDBUF of the connections; 0 for the kernel's own choice.
        seed: decides every cut.
    """

    def __init__(self, port: int, *, read: int, write: int, send_buffer: int, seed: int) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self._read, self._write, self._seed = read, write, seed
        if send_buffer:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.bind(("127.0.0.1", port))
        self.listen(128)
        self.setblocking(False)

    def accept(self) -> tuple[socket.socket, object]:
        """Take a connection."""
        plain, address = super().accept()
        connection = UnkindSocket(fileno=plain.detach())
        connection.read, connection.write = self._read, self._write
        self._seed += 1
        connection.chance = random.Random(self._seed)
        return connection, address
