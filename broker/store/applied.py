"""What came of a control message that was handed to the store."""

from enum import StrEnum

import attrs

from broker.store.replies import integer, items, maybe_text, text
from protocol.states import State


class Status(StrEnum):
    """How the store decided about a message."""

    APPLIED = "applied"
    """Written, logged and published."""
    DUPLICATE = "duplicate"
    """Another broker, or an earlier try, has handed it in already; it was applied then, or refused."""
    STALE = "stale"
    """A Normal, Flagged or Tripped with a version that is not above the stored one, or beyond 2^52: dropped."""
    TERMINAL = "terminal"
    """The workflow is Killed, and nothing but force leaves that."""
    LATE = "late"
    """Handed in when claims from the time of its publication are forgotten; the workflow has changed since: dropped."""
    NO_KEY = "no_key"
    """The organization has no API key, so that nobody could hear it; nothing was written."""


_STATES = frozenset(State)


@attrs.frozen
class Applied:
    """The store's decision.

    ``version`` is the workflow's version after it (0 for messages that are not about a state, and for a duplicate of a
    publication without message_id). ``seq``, ``ms`` (unix milliseconds) and ``epoch`` name the place in the
    organization's log. ``previous`` is the state before, None if the workflow had none, or one that this version does
    not know. ``heard`` counts the subscribers of the live channel, hence brokers with sessions of the organization,
    when it was published.
    """

    status: Status
    version: int
    seq: int
    ms: int
    epoch: str
    message_id: str
    previous: State | None
    heard: int = 0


def decode_applied(reply: object) -> Applied:
    """The reply of apply.lua."""
    status, version, seq, ms, epoch, message_id, previous, heard = items(reply)
    before = maybe_text(previous)
    return Applied(
        status=Status(text(status)),
        version=integer(version),
        seq=integer(seq),
        ms=integer(ms),
        epoch=text(epoch),
        message_id=text(message_id),
        previous=State(before) if before in _STATES else None,
        heard=integer(heard),
    )
