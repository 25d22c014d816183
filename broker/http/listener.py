"""Opening the sockets that the broker listens on."""

import socket
import stat
from pathlib import Path

from broker.config.bind import UnixBind, parse_bind

__all__ = ["describe_listener", "listen"]

BACKLOG = 4096
"""Connections that may wait in the kernel; it caps this at net.core.somaxconn."""


def listen(bind: str, mode: int = 0o666) -> socket.socket:
    """Return a non-blocking listening socket; port 0 takes any free one.

    Args:
        bind: "host:port", "[v6]:port" or "unix:/path". A stale unix socket at the path is replaced; a live one, or a
            file that is no socket, is not.
        mode: the permissions of a unix socket.

    Raises:
        ValueError: the address is malformed.
        OSError: it cannot be listened on.
    """
    address = parse_bind(bind)
    if isinstance(address, UnixBind):
        return _listen_unix(Path(address.path), mode)
    infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, name = infos[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # [::] means every address of both families, as operators expect; other v6 addresses mean themselves.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address.host != "::"))
        sock.bind(name)
        return _started(sock)
    except BaseException:
        sock.close()
        raise


def describe_listener(sock: socket.socket) -> str:
    """Return where a socket listens, in the form that `listen` reads."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name}"
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listen_unix(path: Path, mode: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(str(path))
        path.chmod(mode)
        return _started(sock)
    except BaseException:
        sock.close()
        raise


def _remove_stale(path: Path) -> None:
    """Take away a socket that nobody listens on; whatever else is there makes `bind` fail."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError:
            return


def _started(sock: socket.socket) -> socket.socket:
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock
