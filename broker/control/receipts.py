"""Receipts: who was sent what, and who acknowledged it."""

from collections.abc import Iterable

from broker.control.acks import Pending
from broker.control.member import Member
from broker.control.publication import Publication


class ReceiptBook:
    """Notes what happens to messages that want acks."""

    def delivered(self, publication: Publication, members: Iterable[Member]) -> None:
        """Note that a message went to its addressees."""

    def acknowledged(self, member: Member, pending: Pending, received_at: int) -> None:
        """Note an addressee's ack."""

    def unconfirmed(self, member: Member, pending: Pending) -> None:
        """Note that an addressee did not acknowledge."""

    def gone(self, member: Member, left: Iterable[Pending]) -> None:
        """Note that a session ended with messages unacknowledged."""
