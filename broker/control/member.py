"""A session as its room sees it: what it has been sent, what waits for it, what it has not acknowledged."""

from collections.abc import Iterable

import trio

from broker.control.acks import Pending, PendingAcks
from broker.control.backlog import Backlog
from broker.control.carried import CarriedAck, CarriedSession
from broker.control.message import Message, Signer
from broker.control.publication import Publication
from broker.control.services import ControlServices
from broker.store.key_record import KeyRecord
from broker.store.snapshot import Position
from broker.wire.doorbell import Doorbell
from broker.wire.peer import Peer
from protocol.codec import encode
from protocol.codes import CloseCode
from protocol.control import Error, KeyRotated, ResyncRequired, ServerMessage

HOLD_BYTES = 16384
"""Pending bytes above which further publications wait here, where a newer state takes an older one's place."""


class Member:
    """What a session is told passes here; everything is synchronous and nothing waits for the client.

    Attributes:
        peer, record, api_key, organization_id: whose session it is; `record` is kept current.
        bound: the workflow that its key is bound to, None for every workflow.
        generation, seq, ms: the last publication meant for it: which life of the room, which number, made when.
        sent_seq, sent_ms: the last one that its outbox has taken, with all before it.
        holding: whether publications wait in `backlog` until its courier is done.
        over: whether it ends once its courier is done.
        rotated_to: the newest version of its own key that it was told of.
        snapshot_due: whether the courier must begin with a snapshot.
        begun: set once it has been sent anything, first of all `initial_state`.
        bell: wakes the courier.
        backlog: what waits for the courier.
        pending: what it has not acknowledged.
        sent, acked: how many messages it was sent, and how many it has acknowledged, for the closing log line.
        silent: whether it was not heard for a while.
        last_ack: unix time of its last ack, 0 if there was none.
        clock_skew: how far its clock is ahead of ours, in seconds, as its acks tell; None before the first.
        wrong_signatures: how many of its acks were signed wrongly.
        resumed_at: the place that it had reached with another process; a room of that log goes on from there.
    """

    __slots__ = (
        "_alternative",
        "_services",
        "_signer",
        "acked",
        "api_key",
        "backlog",
        "begun",
        "bell",
        "bound",
        "clock_skew",
        "generation",
        "holding",
        "last_ack",
        "ms",
        "organization_id",
        "over",
        "peer",
        "pending",
        "record",
        "resumed_at",
        "rotated_to",
        "sent",
        "sent_ms",
        "sent_seq",
        "seq",
        "silent",
        "snapshot_due",
        "wrong_signatures",
    )

    def __init__(
        self, services: ControlServices, peer: Peer, record: KeyRecord, api_key: str, secret: str | None = None
    ) -> None:
        self._services = services
        self._signer = services.signers.take(api_key, secret or record.secret_key)
        self._alternative: Signer | None = None
        self.peer = peer
        self.record = record
        self.api_key = api_key
        self.organization_id = record.organization_id
        self.bound = record.workflow_id
        self.generation = self.seq = self.ms = self.sent_seq = self.sent_ms = 0
        self.holding = self.snapshot_due = True
        self.over = False
        self.begun = trio.Event()
        self.bell = Doorbell()
        self.backlog = Backlog()
        self.pending = PendingAcks()
        self.silent = False
        self.sent = self.acked = self.rotated_to = 0
        self.last_ack = 0.0
        self.clock_skew: float | None = None
        self.wrong_signatures = 0
        self.resumed_at: Position | None = None
        self._choose_alternative()
        peer.on_overflow = self.miss

    @property
    def secret(self) -> str | None:
        """The secret that this session is signed with, None if it is not signed."""
        return None if self._signer is None else self._signer.secret

    def begin(self, generation: int, seq: int, ms: int) -> None:
        """Start over at a place in the room: a snapshot as of `seq` or later is due, then what is above it.

        Args:
            generation: the life of the room.
            seq: the place in its log.
            ms: the store's unix ms of that entry.
        """
        self.generation = generation
        self.seq = seq
        self.ms = ms
        self.sent_seq = self.sent_ms = 0
        self.holding = self.snapshot_due = True
        self.backlog.clear()
        self.bell.ring()

    def resume(self, position: Position | None) -> None:
        """Join a room where another process has left off, if that was in the same log."""
        resumed, self.resumed_at = self.resumed_at, None
        if resumed is not None and position is not None and resumed.epoch == position.epoch:
            self.sent_seq, self.sent_ms = min(resumed.seq, position.seq), resumed.ms

    def carry(self, epoch: str | None) -> CarriedSession:
        """Return what another process needs to go on with this session; `epoch` is the log's that it is told from."""
        position = self.resumed_at  # of a session that has not joined its room here yet
        if position is None and epoch and self.sent_seq:
            position = Position(epoch, self.sent_seq, self.sent_ms)
        return CarriedSession(
            record=self.record,
            api_key=self.api_key,
            secret=self.secret,
            position=position,
            pending=tuple(map(CarriedAck.of, self.pending.all())),
            sent=self.sent,
            acked=self.acked,
            last_ack=self.last_ack,
            clock_skew=self.clock_skew,
            wrong_signatures=self.wrong_signatures,
            silent=self.silent,
        )

    def take_up(self, carried: CarriedSession) -> None:
        """Go on with a session of another process: wait for the acks that it waited for, and report so."""
        self.begun.set()
        self.resumed_at = carried.position
        self.sent, self.acked, self.last_ack = carried.sent, carried.acked, carried.last_ack
        self.clock_skew, self.wrong_signatures = carried.clock_skew, carried.wrong_signatures
        most = self._services.config.control.ack_attempts
        for each in carried.pending:
            publication = each.publication()
            if publication is not None:
                pending = self.pending.restore(
                    publication, addressee=each.addressee, attempts=min(each.attempts, most), resent=each.resent
                )
                if pending is None:
                    continue
                if pending.addressee:
                    self._services.receipts.delivered(publication, [self])
                if pending.resent:
                    self._services.resends.plan(self, pending)

    def deliver(self, publication: Publication, generation: int, second: int) -> bool:
        """Take the next publication of the room; tell whether it was new here.

        Args:
            publication: shared with every other session.
            generation: the life of the room that it belongs to.
            second: unix time, for its signature.
        """
        if publication.seq <= self.seq or generation != self.generation:
            return False
        self.seq = publication.seq
        self.ms = publication.ms
        if publication.state is not None:
            self.pending.supersede(publication.workflow_id or "")
        else:
            self.note_rotation(publication)
        if publication.wants_ack:
            self.expect(publication)
        if self.holding or self.peer.pending_bytes > HOLD_BYTES:
            self.holding = True
            self.backlog.add(publication)
            self.bell.ring()
        elif self.peer.send(publication.message.frame(self._signer, second)):
            self.sent += 1
            self.note_sent(publication.seq, publication.ms)
        else:
            self.miss()
        return True

    def note_rotation(self, publication: Publication) -> None:
        """Remember what it is told of its own key."""
        body = publication.body
        if isinstance(body, KeyRotated) and body.key_id == self.record.key_id:
            self.rotated_to = max(self.rotated_to, body.new_version)

    def note_sent(self, seq: int, ms: int) -> None:
        """The outbox has taken everything up to a place in the log."""
        if seq > self.sent_seq:
            self.sent_seq = seq
            self.sent_ms = ms

    def miss(self) -> None:
        """Something could not be sent: mend from snapshot and log as soon as the outbox is empty again."""
        self.holding = self.snapshot_due = True
        self.bell.ring()

    def expect(self, publication: Publication) -> bool:
        """Wait for the ack of a message; tell whether it was not waited for already."""
        pending = self.pending.expect(publication, addressee=publication.is_for(self.bound))
        if pending is None:
            return False
        self._services.resends.plan(self, pending)
        return True

    def frame(self, message: Message) -> bytes:
        """Return a message as this session gets it, signed now."""
        return message.frame(self._signer, int(self._services.clock()))

    def tell(self, message: ServerMessage) -> bool:
        """Send one message to this session alone; tell whether the outbox took it."""
        return self.peer.send(self.frame(Message(encode(message))))

    def refuse(self, code: str, text: str) -> None:
        """Answer a message of the client with an error."""
        self._services.counters.messages_refused[code] += 1
        if self.peer.pending_bytes <= HOLD_BYTES:
            self.tell(Error(code=code, message=text))

    def resend(self, pending: Pending) -> None:
        """Send an unacknowledged message again, freshly signed, unless the first copy has not even left yet.

        Every other time it is signed with the other secret of a rotated key: the client may know only that one.
        """
        pending.attempts += 1
        if pending.attempts == 1:
            self._services.receipts.overdue(self, pending)
        if self.holding or self.peer.pending_bytes:
            return
        signer = self._signer
        if pending.attempts % 2 and self._alternative is not None:
            signer = self._alternative
        if self.peer.send(pending.publication.message.frame(signer, int(self._services.clock()))):
            self._services.counters.control_resent += 1

    def sign_with(self, secret: str) -> None:
        """The client has signed with a newer secret: from now on this session is signed with that."""
        signers = self._services.signers
        signers.give_back(self._signer)
        self._signer = signers.take(self.api_key, secret)
        self._choose_alternative()

    def verifying_secrets(self) -> tuple[str, ...]:
        """Return the secrets that this client may sign with now."""
        return self.record.verifying_secrets(self._services.clock())

    def key_changed(self, record: KeyRecord | None) -> None:
        """Take a new version of the key; None ends the session, once it knows what was decided before."""
        if record is not None:
            self.record = record
            self._choose_alternative()
        else:
            self._services.farewells.begin(self)

    def let_go(self) -> None:
        """End, if nothing is due to the client; else its courier does that."""
        self.over = True
        if not self.holding:
            self.end_with_key()

    def end_with_key(self) -> None:
        """Tell the client that its key is over, behind what it can still be told, and close."""
        if self.peer.closing:
            return
        while self.backlog:
            self.peer.send(self.frame(self.backlog.pop().message))
        version = self.record.version + 1
        if self.rotated_to < version:
            self.tell(
                KeyRotated(
                    organization_id=self.organization_id,
                    key_id=self.record.key_id,
                    new_version=version,
                    message_id=f"{self.record.key_id[:100]}~{version}",
                )
            )
        self.peer.close_soon(CloseCode.KEY_REVOKED, "API key revoked or expired")

    def resync(self, reason: str) -> None:
        """Tell the client that no snapshot can be had: the last resort."""
        self.tell(ResyncRequired(reason=reason))

    def leave(self) -> Iterable[Pending]:
        """End: give everything back; returns what was never acknowledged."""
        self._services.signers.give_back(self._signer)
        self._signer = self._alternative = None
        self.backlog.clear()
        return self.pending.abandon()

    def _choose_alternative(self) -> None:
        """Of the two secrets of the key, find the one that this session is not signed with."""
        for secret in (self.record.secret_key, self.record.previous_secret):
            if secret and self._signer is not None and secret != self._signer.secret:
                self._alternative = Signer(self.api_key, secret)
                return
        self._alternative = None
