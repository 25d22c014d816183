"""What of a connection travels from one process to the next."""

import attrs

__all__ = ["OpenConnection"]


@attrs.frozen
class OpenConnection:
    """An open WebSocket as one process gives it to the next; see `Peer.hand_over`.

    Attributes:
        id, remote, opened_at: as of the peer.
        quiet: seconds since the last bytes came from it.
        unread: bytes that came from it and are no complete message yet, to be read again.
        begun: the rest of what the kernel has taken a part of, to be written first.
        frames: complete frames to be written after that.
    """

    id: str
    remote: str
    opened_at: float
    quiet: float
    unread: bytes = b""
    begun: bytes = b""
    frames: tuple[bytes, ...] = ()
