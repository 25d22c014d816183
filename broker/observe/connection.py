"""The two lines that every connection leaves in the log: one when it opens, one that says it all when it ends."""

import time
from typing import Any, Protocol


class Ended(Protocol):
    """What a closing line tells of a connection."""

    opened_at: float
    close_code: int
    close_reason: str
    closed_by: str

    @property
    def peak_bytes(self) -> int:
        """The most that was ever pending."""

    @property
    def sent(self) -> tuple[int, int]:
        """Frames and bytes."""


def log_open(log: Any, kind: str, **fields: object) -> None:
    """Say that a connection of this kind is open; `log` carries who it is."""
    log.info("connection open", kind=kind, **fields)


def log_close(log: Any, kind: str, peer: Ended, **fields: object) -> None:
    """Say how a connection ended: by whom, with which code, how long it lived, what went through it."""
    frames, size = peer.sent
    log.info(
        "connection closed",
        kind=kind,
        by=peer.closed_by or "us",
        code=int(peer.close_code),  # not its repr, which a text log would show
        reason=peer.close_reason,
        seconds=round(time.time() - peer.opened_at, 3),
        sent=frames,
        sent_bytes=size,
        peak_outbox=peer.peak_bytes,
        **fields,
    )
