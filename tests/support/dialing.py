"""Connecting to a listening socket, whatever its address looks like."""

from __future__ import annotations

import ssl

import trio

__all__ = ["Address", "dial"]

Address = tuple[str, int] | str
"""What a test connects to: (host, port), or the path of a unix socket, as `socket.getsockname()` gives them."""


async def dial(
    address: Address, tls: ssl.SSLContext | None = None, server_hostname: str = "localhost"
) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
    """Connect to `address`, with a TLS handshake when a context is given. Raises OSError, BrokenResourceError."""
    if isinstance(address, str):
        stream = await trio.open_unix_socket(address)
    else:
        stream = await trio.open_tcp_stream(address[0], address[1])
    if tls is None:
        return stream
    secured = trio.SSLStream(stream, tls, server_hostname=server_hostname, https_compatible=True)
    try:
        await secured.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return secured
