"""What one process tells the next about the sockets that it hands over, as bytes.

A parcel is a message with descriptors: the first is anonymous memory with the state of the others, in their order. That
would be too much for the message itself, since what may wait in a socket is bounded by net.core.wmem_max. There are
secrets in it, so it is never in a file system.
"""

import os
import socket
from collections.abc import Iterable, Sequence

import attrs
from cattrs.errors import BaseValidationError
from cattrs.preconf.orjson import make_converter

from broker.control.carried import CarriedSession
from broker.wire import OpenConnection

STATE_VERSION = 1
"""Rises whenever `HandedSession`, or anything in it, changes: what another version has left is closed."""

MAX_SOCKETS = 250
"""Sockets in one parcel; the kernel takes 253 descriptors in a message."""

_GREETING = b"signalbox-sessions"
_CONVERTER = make_converter(forbid_extra_keys=True)


class Unreadable(Exception):
    """The parcel is from another version, or damaged."""


@attrs.frozen
class HandedSession:
    """One session: its connection, and what goes on over it."""

    connection: OpenConnection
    session: CarriedSession


def pack(sessions: Iterable[HandedSession]) -> tuple[bytes, int]:
    """Return the message and the descriptor of the memory that goes first; the caller closes it.

    The memory has one session per line, in the order of the sockets; none is asked for before the memory is there.
    """
    memory = os.memfd_create("signalbox-sessions", os.MFD_CLOEXEC)
    try:
        lines = list(map(_CONVERTER.dumps, sessions))
        data = memoryview(b"\n".join(lines))
        while data:
            data = data[os.write(memory, data) :]
    except BaseException:
        os.close(memory)
        raise
    return b"%b %d %d" % (_GREETING, STATE_VERSION, len(lines)), memory


def unpack(message: bytes, memory: int) -> list[bytes]:
    """Return the sessions that `pack` was given, each still to be read with `read_session`.

    Raises:
        Unreadable: it is of another version, or not whole.
    """
    greeting, _, rest = message.partition(b" ")
    version, _, count = rest.partition(b" ")
    if greeting != _GREETING or version != b"%d" % STATE_VERSION:
        raise Unreadable(f"state of version {version.decode(errors='replace') or '?'}, this is {STATE_VERSION}")
    try:
        lines = os.pread(memory, os.fstat(memory).st_size, 0).split(b"\n")
    except OSError as error:
        raise Unreadable(f"no memory: {error}") from None
    if count != b"%d" % len(lines):
        raise Unreadable("state of another number of sessions")
    return lines


def read_session(line: bytes) -> HandedSession:
    """Read one session.

    Raises:
        Unreadable: it is none of this version.
    """
    try:
        return _CONVERTER.loads(line, HandedSession)
    except (ValueError, TypeError, KeyError, AttributeError, BaseValidationError) as error:
        raise Unreadable(f"state that cannot be read: {type(error).__name__}") from None


def send(channel: socket.socket, message: bytes, memory: int, socks: Sequence[int]) -> None:
    """Put one parcel into the channel; raises OSError when it does not fit."""
    socket.send_fds(channel, [message], [memory, *socks])


def receive(channel: socket.socket) -> tuple[bytes, list[int]] | None:
    """Take one parcel out of the channel: the message and its descriptors, which are ours to close; None: no more."""
    try:
        message, descriptors, _, _ = socket.recv_fds(channel, 4096, MAX_SOCKETS + 1)
    except BlockingIOError:
        return None
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return (message, descriptors) if message or descriptors else None
