"""What waits for clients now: looked up when somebody asks, so that writing to them costs nothing more."""

from collections.abc import Collection

import attrs
import trio

from broker.wire.peer import Peer

__all__ = ["Backlog", "look"]

SLICE = 1000
"""Connections looked at before everybody else has a turn."""


@attrs.define
class Backlog:
    """The outboxes of one kind of session.

    Attributes:
        sessions: how many there are.
        waiting: how many have anything pending.
        pending: bytes pending, over all of them.
        largest: bytes pending for the one with the most.
        peak: the most that was ever pending for one that is still here, in bytes.
    """

    sessions: int = 0
    waiting: int = 0
    pending: int = 0
    largest: int = 0
    peak: int = 0


async def look(peers: Collection[Peer]) -> Backlog:
    """Return what waits for these clients, in slices that stop nobody for long."""
    found = Backlog()
    for count, peer in enumerate(list(peers), 1):
        pending = peer.outbox.pending
        found.sessions += 1
        if pending:
            found.waiting += 1
            found.pending += pending
            found.largest = max(found.largest, pending)
        found.peak = max(found.peak, peer.outbox.peak)
        if count % SLICE == 0:
            await trio.lowlevel.checkpoint()
    return found
