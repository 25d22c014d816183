"""The PROXY protocol, version 2: what a TCP proxy says about its client before the first byte of that client.

As HAProxy specifies it in proxy-protocol.txt, section 2.2. Versions in text are not spoken here.
"""

import ipaddress
from typing import Protocol

__all__ = ["BadProxyHeader", "read_proxy_header"]

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
FIXED_BYTES = 16
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


async def read_proxy_header(source: Source) -> str | None:
    """Read exactly the header and return the client as "host:port" or "[v6]:port".

    None means that the connection is the proxy's own (a health check), or that it does not know its client.

    Raises:
        BadProxyHeader: it is none of version 2, too long, or cut short.
    """
    fixed = await _read(source, FIXED_BYTES)
    if not fixed.startswith(SIGNATURE):
        raise BadProxyHeader("no PROXY protocol header of version 2")
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


async def _read(source: Source, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await source.receive_some(size - len(data))
        if not more:
            raise BadProxyHeader("the connection ended within its PROXY protocol header")
        data += more
    return data
