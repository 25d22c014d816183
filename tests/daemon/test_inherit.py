"""Sockets from the service manager are taken up as sd_listen_fds(3) has it."""

import os
import socket
from collections.abc import Iterator

import pytest

from broker.daemon.inherit import Inherited, inherited

FIRST = 700


@pytest.fixture
def given() -> Iterator[list[socket.socket]]:
    """Four listening sockets as descriptors in a row, inheritable as exec leaves them."""
    socks = []
    for offset in range(4):
        sock = socket.create_server(("127.0.0.1", 0))
        os.dup2(sock.fileno(), FIRST + offset, inheritable=True)
        socks.append(sock)
    yield socks
    for sock in socks:
        sock.close()


def names(socks: tuple[socket.socket, ...]) -> list[object]:
    """Where they listen."""
    return [sock.getsockname() for sock in socks]


def close(all_of_them: Inherited) -> None:
    """Close everything."""
    for sock in (*all_of_them.public, *all_of_them.admin, *all_of_them.handover):
        sock.close()


def test_by_name(given: list[socket.socket]) -> None:
    """The names tell the admin listener and the handover from the public listeners; none blocks, none is inherited."""
    environ = {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": "4",
        "LISTEN_FDNAMES": "public:admin:handover:signalbox.socket",
        "HOME": "/",
    }
    found = inherited(environ, FIRST)
    assert names(found.public) == names((given[0], given[3]))
    assert names(found.admin) == names((given[1],))
    assert names(found.handover) == names((given[2],))
    assert not any(sock.get_inheritable() or sock.getblocking() for sock in found.public)
    assert environ == {"HOME": "/"}
    close(found)


def test_without_names(given: list[socket.socket]) -> None:
    """Without names every socket is a public listener."""
    found = inherited({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "4"}, FIRST)
    assert len(found.public) == 4
    close(found)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "4"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"},
        {"LISTEN_FDS": "4"},
    ],
)
def test_not_for_us(given: list[socket.socket], environ: dict[str, str]) -> None:
    """Variables for another process, or with nonsense in them, mean nothing."""
    assert inherited(environ, FIRST) == Inherited()


def test_what_is_no_socket() -> None:
    """A descriptor that is no socket is passed over."""
    read, write = os.pipe()
    os.dup2(read, FIRST)
    assert inherited({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}, FIRST) == Inherited()
    for descriptor in (read, write, FIRST):
        os.close(descriptor)
