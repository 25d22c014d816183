"""The PROXY protocol: what a TCP proxy says about its client before the first byte of that client.

As HAProxy specifies it in proxy-protocol.txt: version 2, in bytes (section 2.2), and version 1, in text (section 2.1),
which is all that nginx sends.
"""

import ipaddress
from typing import Protocol

__all__ = ["BadProxyHeader", "read_proxy_header"]

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
TEXT = b"PROXY "
FIXED_BYTES = 16
MAX_LINE = 107
"""Bytes of a header in text, with its line end."""

MAX_BYTES = 4096
"""What follows the fixed part: addresses, and notes (TLVs) that are skipped."""

_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21


class BadProxyHeader(Exception):
    """A connection of a trusted proxy does not begin as it must."""


class Source(Protocol):
    """Where the header is read from: a wire."""

    async def receive_some(self, max_bytes: int = ...) -> bytes:
        """Return the next bytes, b"" at the end."""

    def unread(self, data: bytes) -> None:
        """Give bytes back, to be received first."""


async def read_proxy_header(source: Source) -> str | None:
    """Read exactly the header and return the client as "host:port" or "[v6]:port".

    None means that the connection is the proxy's own (a health check), or that it does not know its client.

    Raises:
        BadProxyHeader: it is none, too long, or cut short.
    """
    start = await _read(source, len(TEXT))
    if start == TEXT:
        return _understand(await _read_line(source))
    if not SIGNATURE.startswith(start):
        raise BadProxyHeader("no PROXY protocol header")
    fixed = start + await _read(source, FIXED_BYTES - len(start))
    if not fixed.startswith(SIGNATURE):
        raise BadProxyHeader("no PROXY protocol header")
    command, family = fixed[12], fixed[13]
    size = int.from_bytes(fixed[14:16], "big")
    if command not in (_LOCAL, _PROXY) or size > MAX_BYTES:
        raise BadProxyHeader("a PROXY protocol header that is not understood")
    body = await _read(source, size)
    if command == _LOCAL:
        return None
    if family == _TCP4 and size >= 12:
        return f"{ipaddress.IPv4Address(body[:4])}:{int.from_bytes(body[8:10], 'big')}"
    if family == _TCP6 and size >= 36:
        return f"[{ipaddress.IPv6Address(body[:16])}]:{int.from_bytes(body[32:34], 'big')}"
    if family in (_TCP4, _TCP6):
        raise BadProxyHeader("a PROXY protocol header without room for its addresses")
    return None


async def _read_line(source: Source) -> bytes:
    """Return what stands between `TEXT` and the line end; what follows is given back."""
    line = b""
    while b"\r\n" not in line:
        if len(line) >= MAX_LINE - len(TEXT):
            raise BadProxyHeader("a PROXY protocol header in text that is too long")
        more = await source.receive_some(MAX_LINE - len(TEXT) - len(line))
        if not more:
            raise BadProxyHeader("the connection ended within its PROXY protocol header")
        line += more
    line, _, rest = line.partition(b"\r\n")
    if rest:
        source.unread(rest)
    return line


def _understand(line: bytes) -> str | None:
    """Read `TCP4 <client> <proxy> <port> <port>`, or UNKNOWN and anything."""
    family, *words = line.decode("latin-1").split(" ")
    if family == "UNKNOWN":
        return None
    try:
        client, _, port, _ = words
        address = {"TCP4": ipaddress.IPv4Address, "TCP6": ipaddress.IPv6Address}[family](client)
        if not (port.isascii() and port.isdigit() and int(port) <= 65535):
            raise ValueError(port)
    except (KeyError, ValueError):
        raise BadProxyHeader("a PROXY protocol header in text that is not understood") from None
    return f"[{address}]:{port}" if family == "TCP6" else f"{address}:{port}"


async def _read(source: Source, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await source.receive_some(size - len(data))
        if not more:
            raise BadProxyHeader("the connection ended within its PROXY protocol header")
        data += more
    return data
