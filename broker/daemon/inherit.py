"""Descriptors that the service manager gives a process at its start: sd_listen_fds(3), without its library."""

import os
import socket
from collections.abc import MutableMapping

import attrs

FIRST = 3

HANDOVER = "handover"
"""The name under which a former process has left the sessions that it handed over."""

ADMIN = "admin"
"""The name (`FileDescriptorName=`) of a socket for the admin listener; every other one is public."""


@attrs.frozen
class Inherited:
    """What came from the service manager; all of it ours to close.

    Attributes:
        public: listening sockets for clients.
        admin: listening sockets for operators.
        handover: what former processes have left, normally one or none.
    """

    public: tuple[socket.socket, ...] = ()
    admin: tuple[socket.socket, ...] = ()
    handover: tuple[socket.socket, ...] = ()


def inherited(environ: MutableMapping[str, str] = os.environ, first: int = FIRST) -> Inherited:
    """Return the sockets that LISTEN_FDS speaks of, non-blocking, and take the variables out of `environ`.

    They are inherited by no child. What is no socket, or meant for another process, is left alone.
    """
    pid = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return Inherited()
    found: dict[str, list[socket.socket]] = {"": [], ADMIN: [], HANDOVER: []}
    for offset in range(int(count)):
        descriptor = first + offset
        name = names[offset] if offset < len(names) else ""
        try:
            os.set_inheritable(descriptor, False)
            sock = socket.socket(fileno=descriptor)
        except OSError:
            continue
        sock.setblocking(False)
        found[name if name in found else ""].append(sock)
    return Inherited(*(tuple(found[name]) for name in ("", ADMIN, HANDOVER)))
