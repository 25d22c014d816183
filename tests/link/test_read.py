"""Reading the socket of a link."""

import os
import socket

import pytest
import trio

from broker.link.dial import direct_read


class Meanwhile(trio.abc.Instrument):
    """Closes a socket between the wake-up of its reader and the reader's step, and gives its number to another."""

    def __init__(self, closes: trio.socket.SocketType, number_for: int) -> None:
        self._closes = closes
        self._number_for = number_for
        self._reader = trio.lowlevel.current_task()
        self.number = closes.fileno()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Do it, once."""
        if task is self._reader and self._closes.fileno() >= 0:
            self._closes.close()
            os.dup2(self._number_for, self.number)


async def test_it_reads() -> None:
    """What is there, and the end."""
    ours, theirs = socket.socketpair()
    with theirs, trio.socket.from_stdlib_socket(ours) as sock:
        read = direct_read(sock)
        theirs.sendall(b"hello")
        assert await read() == b"hello"
        theirs.shutdown(socket.SHUT_WR)
        assert await read() == b""


async def test_a_closed_socket_is_not_read() -> None:
    """Nor waited for."""
    sock = trio.socket.socket()
    sock.close()
    with pytest.raises(trio.ClosedResourceError):
        await direct_read(sock)()


async def test_the_bytes_of_a_stranger_are_not_read() -> None:
    """A socket that is closed when its reader wakes up is not read by its number, which is another's by then."""
    ours, theirs = socket.socketpair()
    stranger, its_peer = socket.socketpair()
    sock = trio.socket.from_stdlib_socket(ours)
    with theirs, stranger, its_peer:
        theirs.sendall(b"for us")
        its_peer.sendall(b"for a stranger")
        meanwhile = Meanwhile(sock, stranger.fileno())
        trio.lowlevel.add_instrument(meanwhile)
        try:
            with pytest.raises(trio.BrokenResourceError):
                await direct_read(sock)()
        finally:
            trio.lowlevel.remove_instrument(meanwhile)
            os.close(meanwhile.number)
        assert stranger.recv(100) == b"for a stranger"
