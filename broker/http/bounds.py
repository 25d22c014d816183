"""The sizes and times that bound a connection that speaks HTTP."""

import attrs

from broker.config import Config

__all__ = ["HttpBounds"]


@attrs.frozen(kw_only=True)
class HttpBounds:
    """Sizes in bytes, times in seconds.

    Attributes:
        max_head_bytes: a request line with all headers; 431 above it.
        max_body_bytes: a request body; 413 above it.
        handshake_timeout: from the accept to the end of the first head, TLS included; then each later head from its
            first byte, each body, and each answer for itself.
        idle_timeout: between two requests on one connection.
        max_requests: requests on one connection; the last answer says `Connection: close`.
        max_handshakes: connections that speak HTTP at once; at this many a listener stops accepting, and newcomers wait
            in the kernel's backlog: a refused agent would never come back.
        linger: how long a refused client may take to read its answer.
    """

    max_head_bytes: int = 16384
    max_body_bytes: int = 65536
    handshake_timeout: float = 10.0
    idle_timeout: float = 15.0
    max_requests: int = 1000
    max_handshakes: int = 2048
    linger: float = 1.0

    @classmethod
    def of(cls, config: Config) -> "HttpBounds":
        """Return the bounds that a configuration asks for."""
        limits = config.limits
        return cls(
            max_head_bytes=limits.max_head_bytes,
            max_body_bytes=limits.max_body_bytes,
            handshake_timeout=limits.handshake_timeout,
            max_handshakes=limits.max_handshakes,
        )
