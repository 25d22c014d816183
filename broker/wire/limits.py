"""The bounds of one connection."""

import math

import attrs

__all__ = ["PeerLimits"]


@attrs.frozen
class PeerLimits:
    """The bounds of one connection; sizes in bytes, times in seconds.

    Attributes:
        outbox_bytes: see `Outbox.limit`.
        max_message_bytes: a longer message from the peer is refused with 1009.
        max_fragments: a message in more frames than this is refused likewise.
        close_timeout: how long a closing handshake may take before the connection is reset.
        frames_per_second: frames from the peer that are no message in themselves (pings, pongs, parts of a fragmented
            message), on average, with room for one whole message; above it the peer is read more slowly.
        rate_patience: after so long above it without a break the connection is closed with 4429; `math.inf`: never.
        write_stall_timeout: see `Outbox.stall_timeout`.
    """

    outbox_bytes: int
    max_message_bytes: int
    max_fragments: int
    close_timeout: float
    frames_per_second: float = 200.0
    rate_patience: float = math.inf
    write_stall_timeout: float = math.inf
