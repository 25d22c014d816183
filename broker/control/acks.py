"""What one session has not acknowledged yet."""

import attrs

from broker.control.publication import Publication

MAX_RESENT = 20_000
"""Messages of one session that are sent again until they are acknowledged; beyond it further ones are sent once."""

MAX_SETTLED = 256
"""How many that are not sent again any more are still recognized when their ack comes late."""


@attrs.define(eq=False)
class Pending:
    """One message that a session was sent and has not acknowledged.

    Attributes:
        publication: the message.
        addressee: whether the session counts in the message's receipt.
        attempts: how often it was sent again.
        resent: whether it is still to be sent again.
    """

    publication: Publication
    addressee: bool
    attempts: int = 0
    resent: bool = True


class PendingAcks:
    """The unacknowledged messages of a session, by message id."""

    __slots__ = ("_by_id", "_newest", "_settled")

    def __init__(self) -> None:
        self._by_id: dict[str, Pending] = {}
        self._newest: dict[str, Pending] = {}  # workflow -> its pending state, if that is no kill
        self._settled: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def expect(self, publication: Publication, *, addressee: bool) -> Pending | None:
        """Wait for the ack of a message that is being sent; None if it is waited for already, or too many are."""
        if publication.message_id in self._by_id or len(self._by_id) - len(self._settled) >= MAX_RESENT:
            return None
        pending = self._by_id[publication.message_id] = Pending(publication, addressee)
        if publication.state is not None and not publication.kills:
            assert publication.workflow_id is not None
            self._newest[publication.workflow_id] = pending
        return pending

    def all(self) -> list[Pending]:
        """Return what is waited for, those that are not sent again too, oldest first."""
        return list(self._by_id.values())

    def restore(self, publication: Publication, *, addressee: bool, attempts: int, resent: bool) -> Pending | None:
        """Wait for an ack that another process has waited for before."""
        pending = self.expect(publication, addressee=addressee)
        if pending is not None:
            pending.attempts = attempts
            if not resent:
                self.settle(pending)
        return pending

    def supersede(self, workflow_id: str) -> None:
        """A newer state of a workflow is on its way: what is older is not sent again, unless it is a kill."""
        pending = self._newest.pop(workflow_id, None)
        if pending is not None:
            self.settle(pending)

    def settle(self, pending: Pending) -> None:
        """Send it no more; its ack is still welcome."""
        if not pending.resent:
            return
        pending.resent = False
        message_id = pending.publication.message_id
        self._settled[message_id] = None
        if len(self._settled) > MAX_SETTLED:
            oldest = next(iter(self._settled))
            del self._settled[oldest]
            self._by_id.pop(oldest, None)

    def confirm(self, message_id: str) -> Pending | None:
        """Take the ack of a message; None if no such message is pending here."""
        pending = self._by_id.pop(message_id, None)
        if pending is None:
            return None
        pending.resent = False
        self._settled.pop(message_id, None)
        workflow_id = pending.publication.workflow_id
        if workflow_id is not None and self._newest.get(workflow_id) is pending:
            del self._newest[workflow_id]
        return pending

    def abandon(self) -> list[Pending]:
        """Return and forget all: the session is over."""
        left = list(self._by_id.values())
        for pending in left:
            pending.resent = False
        self._by_id.clear()
        self._newest.clear()
        self._settled.clear()
        return left
