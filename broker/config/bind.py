"""Where to listen, as one string: `host:port`, `[v6]:port` or `unix:/path`."""

import ipaddress

import attrs


@attrs.frozen
class TcpBind:
    """A TCP address. Port 0 lets the kernel choose one."""

    host: str
    port: int


@attrs.frozen
class UnixBind:
    """The path of a unix socket."""

    path: str


def parse_bind(text: str) -> TcpBind | UnixBind:
    """Read a bind string; ValueError says what it should look like."""
    if "\0" in text:
        raise ValueError("must not have a zero byte")
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError("unix: needs an absolute path, as in unix:/run/signalbox/signalbox.sock")
        if len(path.encode()) > 107:
            raise ValueError("the path of a unix socket has at most 107 bytes")
        return UnixBind(path)
    host, colon, digits = text.rpartition(":")
    if not colon or not digits.isascii() or not digits.isdigit():
        raise ValueError("must be host:port, [v6]:port or unix:/path")
    port = int(digits)
    if port > 65535:
        raise ValueError(f"port {port} is above 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"an IPv6 address stands in brackets: [{host}]:{port}")
    if not host:
        raise ValueError("a host is missing; to listen on every address write 0.0.0.0 or [::]")
    try:
        host.encode("idna")  # as Python does before it asks the resolver
    except UnicodeError:
        raise ValueError(f'"{host}" is no host name') from None
    return TcpBind(host, port)


def is_local(text: str) -> bool:
    """Whether only this machine reaches what listens on a bind string: loopback by its address, or a unix socket."""
    address = parse_bind(text)
    if isinstance(address, UnixBind) or address.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return False
