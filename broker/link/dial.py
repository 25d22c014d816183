"""Opening one connection: TCP, TLS or unix socket, then HELLO 3 with AUTH and SETNAME, SELECT and a first PING."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable
from typing import NoReturn

import attrs
import trio
from redis.exceptions import AuthenticationError, BusyLoadingError, NoPermissionError, ResponseError

from broker.link.address import Address
from broker.link.command import pack
from broker.link.errors import AuthenticationFailed, StartupError
from broker.link.parser import NOT_YET, Parser
from broker.link.slots import says_replica

READ_SIZE = 65536
"""Bytes per read: one read is one batch."""

_KEEPALIVE_IDLE = 30
_KEEPALIVE_INTERVAL = 10
_KEEPALIVE_PROBES = 3


@attrs.frozen(eq=False)
class Dialled:
    """A connection that is ready for commands."""

    stream: trio.abc.Stream
    read: Callable[[], Awaitable[bytes | bytearray]]
    """The next bytes, READ_SIZE at the most; none at the end. Raises what the stream's receive_some raises."""
    close: Callable[[], None]
    """Closes the socket under the stream, at once; whoever reads or writes gets a ClosedResourceError."""
    parser: Parser
    hello: dict[bytes, object]


async def dial(address: Address, name: str) -> Dialled:
    """Connect and log in under the client name `name`.

    Raises AuthenticationFailed when the credentials are refused or may not do this; StartupError when the server is
    too old for RESP3 (Redis before 6), lacks the db or is a read-only replica; OSError or trio.BrokenResourceError
    when there is no connection to be had; and a `redis.exceptions.RedisError` when the server answers, but not yet
    with service (still loading its data).
    """
    plain = await _connect(address)
    stream: trio.abc.Stream = plain
    try:
        if address.tls is not None:
            stream = trio.SSLStream(plain, address.tls, server_hostname=address.host, https_compatible=True)
            await stream.do_handshake()
        parser = Parser()
        hello = await _log_in(stream, parser, address, name)
    except BaseException:
        plain.socket.close()
        raise
    if stream is plain:
        return Dialled(stream, direct_read(plain.socket), plain.socket.close, parser, hello)
    return Dialled(stream, lambda: stream.receive_some(READ_SIZE), plain.socket.close, parser, hello)


async def _connect(address: Address) -> trio.SocketStream:
    if address.path is not None:
        return await trio.open_unix_socket(address.path)
    stream = await trio.open_tcp_stream(address.host, address.port)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", _KEEPALIVE_IDLE),
        ("TCP_KEEPINTVL", _KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", _KEEPALIVE_PROBES),
    ):
        if hasattr(socket, option):  # macOS calls the first of them otherwise
            stream.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return stream


async def _log_in(stream: trio.abc.Stream, parser: Parser, address: Address, name: str) -> dict[bytes, object]:
    hello: list[str] = ["HELLO", "3"]
    if address.username is not None or address.password is not None:
        hello += ["AUTH", address.username or "default", address.password or ""]
    hello += ["SETNAME", name]
    # One at a time: after a refused HELLO the next commands would only be answered NOAUTH.
    greeting = await _ask(stream, parser, *hello)
    if isinstance(greeting, Exception):
        _refused(greeting, address)
    if not isinstance(greeting, dict):
        raise StartupError(f"{address.describe()} does not answer as a Redis server does")
    if says_replica(greeting):
        raise StartupError(f"{address.describe()} is a read-only replica: name the primary")
    if address.db:
        selected = await _ask(stream, parser, "SELECT", str(address.db))
        if isinstance(selected, Exception):
            raise StartupError(f"{address.describe()} has no db {address.db} for us: {selected}") from selected
    alive = await _ask(stream, parser, "PING")
    # A user who may not PING is no reason to stay away: any answer is a sign of life.
    if isinstance(alive, Exception) and not isinstance(alive, NoPermissionError):
        raise alive
    return greeting


def _refused(error: Exception, address: Address) -> NoReturn:
    if isinstance(error, BusyLoadingError):
        raise error
    if isinstance(error, AuthenticationError | NoPermissionError):
        who = f"user {address.username!r}" if address.username else "the default user"
        raise AuthenticationFailed(f"{address.describe()} refuses {who}: {error}") from error
    if isinstance(error, ResponseError) and "unknown command" in str(error).lower():
        raise StartupError(
            f"{address.describe()} is too old: it does not know HELLO. Redis 6.2 or newer, or any Valkey, is needed"
        ) from error
    raise error


def direct_read(sock: trio.socket.SocketType) -> Callable[[], Awaitable[bytes]]:
    """Read a plain socket for a third less CPU per lonely message than receive_some.

    That one tries to read before it waits, which is in vain after a read of all there was, and goes round the
    scheduler once more after it; waiting first is a checkpoint that does both.
    """

    async def read() -> bytes:
        while True:
            descriptor = sock.fileno()
            if descriptor < 0:
                raise trio.ClosedResourceError("the socket was closed")
            await trio.lowlevel.wait_readable(descriptor)
            try:
                return os.read(sock.fileno(), READ_SIZE)  # asked again: the number may be another's by now
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError from error

    return read


async def _ask(stream: trio.abc.Stream, parser: Parser, *args: str) -> object:
    await stream.send_all(pack(*args))
    while True:
        reply: object = parser.gets()
        if reply is not NOT_YET:
            return reply
        if parser.more():
            continue
        data = await stream.receive_some(READ_SIZE)
        if not data:
            raise trio.BrokenResourceError("the server closed the connection while we logged in")
        parser.feed(data)
