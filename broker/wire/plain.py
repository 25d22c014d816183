"""A plain TCP or unix connection: a raw non-blocking socket whose reads are awaited."""

import contextlib
import fcntl
import socket
import struct
import sys
import termios

import trio

RECEIVE_BYTES = 16384
"""How much one read takes at the most, in bytes."""

_RESET = struct.pack("ii", 1, 0)


class WireBroken(Exception):
    """The connection is gone: reset, timed out or closed under a read or write."""


class PlainWire:
    """One accepted connection without TLS.

    It works on the raw socket, not on a `trio.SocketStream`: the outbox writes to the same socket from synchronous
    code, and two layers fewer are two objects fewer for every idle connection.

    Attributes:
        raw: the socket; non-blocking, its `fileno()` is -1 once closed.
        remote: the peer as text for logs and limits, "203.0.113.7:50123", "[2001:db8::1]:50123" or "unix".
        last_heard: `trio.current_time()` of the last bytes received.
        parked: nothing more is read, and all that was read has been passed on; see `suspend`.
    """

    __slots__ = ("_suspended", "_unread", "last_heard", "parked", "raw", "remote")

    encrypted = False

    def __init__(self, raw: socket.socket, remote: str | None = None) -> None:
        if raw.gettimeout() != 0:
            raw.setblocking(False)
        if raw.family in (socket.AF_INET, socket.AF_INET6):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.raw = raw
        self.remote = _describe_peer(raw) if remote is None else remote
        self.last_heard = trio.current_time()
        self._unread = b""
        self._suspended = self.parked = False

    def suspend(self) -> None:
        """Read nothing more off the socket, so that another process can go on reading; writing goes on as ever.

        Who reads waits for ever from now on. Once that has happened `parked` is true.
        """
        self._suspended = True
        trio.lowlevel.notify_closing(self.raw)  # wakes the reader, and the writer, which tries again

    def unread(self, data: bytes) -> None:
        """Give bytes back: the next `receive_some` returns them first."""
        self._unread = data + self._unread

    def take_unread(self) -> bytes:
        """Return, once, what was given back and has not been read again."""
        data, self._unread = self._unread, b""
        return data

    async def receive_some(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        """Return the next bytes, b"" at the end of the stream.

        Raises:
            WireBroken: the connection was reset, or closed by us.
        """
        if self._unread:
            await trio.lowlevel.checkpoint()
            data, self._unread = self._unread[:max_bytes], self._unread[max_bytes:]
            return data
        data = await self.receive_raw(max_bytes)
        self.last_heard = trio.current_time()
        return data

    def receive_nowait(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        """Return what has come already, b"" at the end of the stream.

        Raises:
            trio.WouldBlock: nothing has.
            WireBroken: the connection was reset, or closed by us.
        """
        if self._unread:
            data, self._unread = self._unread[:max_bytes], self._unread[max_bytes:]
            return data
        try:
            return self.raw.recv(max_bytes)
        except (BlockingIOError, InterruptedError):
            raise trio.WouldBlock from None
        except OSError as error:
            raise WireBroken(str(error)) from None

    def has_unread(self) -> bool:
        """Tell whether the kernel holds bytes that the peer has sent."""
        try:
            return bool(self.raw.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    async def receive_raw(self, max_bytes: int) -> bytes:
        """Return the next bytes off the socket itself, whatever was given back.

        It waits before it tries: a client that has just been read has rarely sent more, and the wait is the checkpoint.
        """
        while True:
            await self._park_if_suspended()
            try:
                await trio.lowlevel.wait_readable(self.raw)
                return self.raw.recv(max_bytes)
            except (BlockingIOError, InterruptedError):
                continue
            except (OSError, ValueError, trio.ClosedResourceError) as error:
                if self._suspended and self.raw.fileno() != -1:
                    continue
                raise WireBroken(str(error)) from None

    async def _park_if_suspended(self) -> None:
        if self._suspended:
            self.parked = True
            await trio.sleep_forever()

    async def wait_writable(self) -> None:
        """Wait until the socket takes bytes again.

        Raises:
            WireBroken: the connection is gone.
        """
        try:
            await trio.lowlevel.wait_writable(self.raw)
        except (OSError, ValueError, trio.ClosedResourceError) as error:
            if not self._suspended or self.raw.fileno() == -1:
                raise WireBroken(str(error)) from None

    def unacknowledged(self) -> int:
        """Return how many bytes the kernel holds that the peer has not taken yet, -1 where it does not tell."""
        try:
            return int.from_bytes(fcntl.ioctl(self.raw, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        except (OSError, ValueError):
            return -1

    async def send_all(self, data: bytes) -> None:
        """Write all of `data`; for answers before a WebSocket begins, after that the outbox writes alone.

        Raises:
            WireBroken: the connection is gone.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        await self.send_raw(data)

    async def send_raw(self, data: bytes) -> None:
        """Write bytes as they are to the socket, waiting where it is full."""
        view = memoryview(data)
        while view:
            try:
                view = view[self.raw.send(view) :]
            except (BlockingIOError, InterruptedError):
                await self.wait_writable()
            except OSError as error:
                raise WireBroken(str(error)) from None
        await trio.lowlevel.cancel_shielded_checkpoint()

    def encrypt(self, data: bytes) -> bytes:
        """Return what goes on the wire for `data`: itself."""
        return data

    def farewell(self) -> bytes:
        """Return the bytes that end the stream politely below the WebSocket: none without TLS."""
        return b""

    def shutdown(self) -> None:
        """Say that nothing more will be written; a socket that is gone already is left alone."""
        try:
            self.raw.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self) -> None:
        """Close the socket, waking whoever waits on it. Safe to call again."""
        if self.raw.fileno() != -1:
            trio.lowlevel.notify_closing(self.raw)
            self.raw.close()

    def reset(self) -> None:
        """Close at once with a TCP reset: unsent bytes are thrown away (SO_LINGER 0)."""
        if self.raw.fileno() != -1:
            with contextlib.suppress(OSError):
                self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.close()

    async def aclose(self) -> None:
        """Close the socket; a checkpoint, for callers that await their closing."""
        self.close()
        await trio.lowlevel.cancel_shielded_checkpoint()


def describe_address(address: object) -> str:
    """Return the address of a socket as text: "host:port", "[v6]:port", or "unix"."""
    if not isinstance(address, tuple):
        return "unix"
    host, port, *_ = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _describe_peer(raw: socket.socket) -> str:
    try:
        return describe_address(raw.getpeername())
    except OSError:
        return "gone"
