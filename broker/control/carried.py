"""What a control session takes along when another process goes on with it."""

import attrs

from broker.control.acks import Pending
from broker.control.publication import Publication
from broker.store.key_record import KeyRecord
from broker.store.snapshot import Position


@attrs.frozen
class CarriedAck:
    """One message that was not acknowledged: `Pending`, with the message as it stands in the log."""

    epoch: str
    seq: int
    ms: int
    payload: bytes
    addressee: bool
    attempts: int
    resent: bool

    @classmethod
    def of(cls, pending: Pending) -> "CarriedAck":
        """Pack a pending message."""
        publication = pending.publication
        return cls(
            publication.epoch,
            publication.seq,
            publication.ms,
            publication.message.payload,
            pending.addressee,
            pending.attempts,
            pending.resent,
        )

    def publication(self) -> Publication | None:
        """Return the message; None if this version cannot read it."""
        publication = Publication(self.epoch, self.seq, self.ms, self.payload)
        return None if publication.body is None else publication


@attrs.frozen
class CarriedSession:
    """The state of a session beside that of its connection; it names secrets, so it never leaves memory.

    Attributes:
        record, api_key: the key that opened it.
        secret: what it is signed with, None if it is not signed.
        position: the place in the log up to which the client has been sent everything; None: nowhere yet.
        pending: what it has not acknowledged, oldest first.
        sent, acked, last_ack, clock_skew, wrong_signatures, silent: as of `Member`.
    """

    record: KeyRecord
    api_key: str = attrs.field(repr=False)
    secret: str | None = attrs.field(repr=False)
    position: Position | None
    pending: tuple[CarriedAck, ...]
    sent: int
    acked: int
    last_ack: float
    clock_skew: float | None
    wrong_signatures: int
    silent: bool
