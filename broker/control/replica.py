"""What a broker knows of one organization: the newest state of every workflow, and how far it has read the log."""

from collections import deque
from collections.abc import Iterator
from enum import Enum, auto

import attrs

from broker.control.message import Message
from broker.control.publication import REPLAYED, Publication
from broker.control.snapshot import JOINED_BYTES, entry, joined, pack, unknown_workflow
from broker.store.snapshot import Position, Snapshot, StoredWorkflow
from protocol.codec import encode
from protocol.control import StateChange, Workflow
from protocol.states import WANTS_ACK, State

MAX_REPLAYED = 4096
"""How many messages that no snapshot holds are remembered for clients that come back."""

RESTORED = "restored"
"""The actor of what is written back when it is not known who acted: live messages do not tell."""


class Verdict(Enum):
    """What a publication is to the replica that it meets."""

    NEXT = auto()  # the one that was waited for: taken
    KNOWN = auto()  # seen already
    AHEAD = auto()  # something between is missing
    STRANGE = auto()  # from another store, or from a store that has forgotten


@attrs.define(eq=False)
class Known:
    """One workflow: what is stored of it, its entry in snapshots, and its message while that may still be acked."""

    stored: StoredWorkflow
    fragment: bytes
    publication: Publication | None = None
    ackable_until: int = 0  # unix ms by the store's clock


class Replica:
    """A copy of one organization's control state, advanced entry by entry; no I/O.

    Args:
        organization_id: whose state it is.
        window: how long messages that no snapshot holds are kept for clients that come back, in seconds.
        receipt_ttl: how long after its making a message can be acked, in seconds.
    """

    def __init__(self, organization_id: str, window: float, receipt_ttl: float) -> None:
        self.organization_id = organization_id
        self.position: Position | None = None
        self.workflows: dict[str, Known] = {}
        self._window_ms = int(window * 1000)
        self._receipt_ms = int(receipt_ttl * 1000)
        self._ahead_ms = 0
        self._replayed: deque[Publication] = deque()
        # Above this place in the log, in seq and the store's ms, nothing that is to be replayed is missing here.
        self._forgotten_seq = self._forgotten_ms = 0
        self._parts: tuple[Message, ...] | None = None
        self._unknown: dict[str, Message] = {}
        self._displaced: dict[str, Known] | None = None  # by another history, while that is in doubt

    def judge(self, publication: Publication) -> Verdict:
        """Say what a publication is, without taking it; before the first snapshot everything is ahead."""
        position = self.position
        if position is None:
            return Verdict.AHEAD
        if publication.epoch != position.epoch and position.epoch is not None:
            return Verdict.STRANGE
        if publication.seq == position.seq + 1:
            return Verdict.NEXT
        if publication.seq > position.seq:
            return Verdict.AHEAD
        # the log's clock never goes back: an old number with a new time comes from a store that lost what came after
        return Verdict.STRANGE if publication.ms > position.ms else Verdict.KNOWN

    def take(self, publication: Publication) -> None:
        """Advance by the next publication."""
        assert self.judge(publication) is Verdict.NEXT
        self.position = Position(epoch=publication.epoch, seq=publication.seq, ms=publication.ms)
        body = publication.body
        if isinstance(body, StateChange):
            self._learn(known_workflow(_stored(body, publication.ms)), publication)
        elif isinstance(body, REPLAYED):
            self._keep(publication)

    def load(self, snapshot: Snapshot, workflows: dict[str, Known], recent: list[Publication], now: float) -> None:
        """Replace everything by what the store says.

        Args:
            snapshot: the position, and the open receipts, as of one moment.
            workflows: the state as of the same moment, made from the snapshot by `known_workflow`.
            recent: the messages of the window before the snapshot that no snapshot holds, up to that position or
                beyond; those before the window may be in the log, or not any more.
            now: seconds by a clock of ours that nobody sets.
        """
        self.position = snapshot.position
        self._ahead_ms = snapshot.now_ms - int(now * 1000)
        self.workflows = workflows
        for workflow_id, message_id in snapshot.open_receipts.items():
            known = workflows.get(workflow_id)
            if known is not None and known.stored.message_id == message_id and known.stored.workflow.state in WANTS_ACK:
                known.ackable_until = known.stored.at_ms + self._receipt_ms
        self._replayed.clear()
        self._forgotten_seq, self._forgotten_ms = snapshot.seq, snapshot.now_ms - self._window_ms - 1
        for publication in recent:
            if publication.seq <= snapshot.seq:
                self._keep(publication)
        self._unknown.clear()
        self._parts = None
        self._displaced = None

    def suspect(self) -> None:
        """What is taken from now on may be of another history: forget no state for it that may have to be restored."""
        if self._displaced is None:
            self._displaced = {}

    def trust(self) -> None:
        """All that was taken is of one history."""
        self._displaced = None

    def store_time(self, now: float) -> int:
        """Return the store's unix ms at a time by the clock that `load` was told, as far as that is known."""
        return int(now * 1000) + self._ahead_ms

    def stored(self) -> list[StoredWorkflow]:
        """Return all that is known, to be written back; first what was known before the history came into doubt."""
        return [
            known.stored if known.stored.actor is not None else attrs.evolve(known.stored, actor=RESTORED)
            for known in (*(self._displaced or {}).values(), *self.workflows.values())
        ]

    def parts(self, bound_workflow: str | None) -> Iterator[Message]:
        """Return the snapshot for a session; its workflow is always listed.

        A long snapshot is shared with all other sessions, and a workflow that is not in it has a message of its own.
        """
        if self._parts is None:
            self._parts = pack(self.organization_id, (known.fragment for known in self.workflows.values()))
        if bound_workflow is None or bound_workflow in self.workflows:
            yield from self._parts
        elif not self.workflows:
            yield self._unknown_part(bound_workflow)
        elif len(self._parts[0].payload) <= JOINED_BYTES:
            yield joined(self._parts[0], entry(unknown_workflow(bound_workflow)))
            yield from self._parts[1:]
        else:
            yield self._unknown_part(bound_workflow)
            yield from self._parts

    def workflow(self, workflow_id: str) -> Workflow | None:
        """Return what is known of one workflow."""
        known = self.workflows.get(workflow_id)
        return None if known is None else known.stored.workflow

    def recent(self, now_ms: int) -> list[Publication]:
        """Return, in order, the messages of the window before `now_ms` (the store's time) that no snapshot holds."""
        oldest = now_ms - self._window_ms
        return [each for each in self._replayed if each.ms >= oldest]

    def missed_since(self, seq: int, ms: int) -> list[Publication] | None:
        """Return, in order, the messages above `seq` that no snapshot holds; None if they are not all known here.

        `ms` is the store's unix ms of the entry `seq`, or less if that is not known.
        """
        if seq < self._forgotten_seq and ms <= self._forgotten_ms:
            return None
        return [each for each in self._replayed if each.seq > seq]

    def to_be_acked(self, bound_workflow: str | None, now_ms: int) -> list[Publication]:
        """Return the messages behind Killed and Paused workflows that a new session is asked to acknowledge."""
        if bound_workflow is None:
            return [self._message_of(known) for known in self.workflows.values() if known.ackable_until > now_ms]
        bound = self.workflows.get(bound_workflow)
        return [self._message_of(bound)] if bound is not None and bound.ackable_until > now_ms else []

    def _learn(self, known: Known, publication: Publication) -> None:
        if publication.wants_ack:
            known.publication = publication
            known.ackable_until = publication.ms + self._receipt_ms
        former = self.workflows.get(known.stored.workflow.workflow_id)
        if self._displaced is not None and former is not None:
            was, becomes = former.stored.workflow, known.stored.workflow
            if was.state is State.KILLED or was.version >= becomes.version:  # in one history only force does that
                self._displaced[was.workflow_id] = former
        self.workflows[known.stored.workflow.workflow_id] = known
        self._unknown.pop(known.stored.workflow.workflow_id, None)
        self._parts = None

    def _keep(self, publication: Publication) -> None:
        self._replayed.append(publication)
        oldest = publication.ms - self._window_ms
        while self._replayed and (self._replayed[0].ms < oldest or len(self._replayed) > MAX_REPLAYED):
            forgotten = self._replayed.popleft()
            self._forgotten_seq, self._forgotten_ms = forgotten.seq, forgotten.ms

    def _message_of(self, known: Known) -> Publication:
        if known.publication is None:
            epoch = self.position.epoch if self.position is not None else None
            workflow = known.stored.workflow
            change = StateChange(
                organization_id=self.organization_id,
                workflow_id=workflow.workflow_id,
                state=workflow.state,
                version=workflow.version,
                reason=workflow.reason,
                updated_at=workflow.updated_at,
                message_id=known.stored.message_id,
            )
            known.publication = Publication(epoch or "", 0, known.stored.at_ms, encode(change))
        return known.publication

    def _unknown_part(self, workflow_id: str) -> Message:
        message = self._unknown.get(workflow_id)
        if message is None:
            if len(self._unknown) >= MAX_REPLAYED:
                self._unknown.clear()
            message = self._unknown[workflow_id] = pack(self.organization_id, [entry(unknown_workflow(workflow_id))])[0]
        return message


def known_workflow(stored: StoredWorkflow) -> Known:
    """Return what a replica keeps of one workflow; encoding it takes a few microseconds."""
    return Known(stored, entry(stored.workflow))


def _stored(change: StateChange, at_ms: int) -> StoredWorkflow:
    workflow = Workflow(
        workflow_id=change.workflow_id,
        state=change.state,
        version=change.version,
        reason=change.reason,
        updated_at=change.updated_at,
    )
    return StoredWorkflow(workflow=workflow, message_id=change.message_id, actor=None, at_ms=at_ms)
