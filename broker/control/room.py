"""A room: one organization's sessions around one copy of its state, told of everything in the order of the log."""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import attrs
import trio

from broker.control.publication import NotALogEntry, Publication, parse_live
from broker.control.replica import Known, Replica, Verdict
from broker.observe import Counters
from broker.store.snapshot import Position, Snapshot
from broker.wire.doorbell import Doorbell
from broker.wire.turn import Turn

if TYPE_CHECKING:
    from broker.control.member import Member

MAX_AHEAD = 1024
"""Publications that may wait for the ones before them; more are read from the log again."""

MAX_JOINTS = 64
"""Breaks of the live channel without a look at the log between them, of which the joints are kept; older ones go."""

MAX_QUEUED = 1024
"""Publications that may wait for their fan-out; past that every session gets a fresh snapshot instead."""

AT_ONCE = 256
"""Sessions that are told of a message in the very step in which it comes; a larger room has a task that takes turns."""

REFRESHED_AT_ONCE = 32
"""Sessions that are told within one turn to send a fresh snapshot: each of them wakes up for it."""


_Item = tuple[Publication | None, int, int, int]
"""What waits for its fan-out: a publication, or None for a fresh snapshot; generation of the room, seq, ms."""


class Room:
    """The sessions of one organization on this broker.

    Args:
        replica: the organization's state.
        counters: `control_sent` is raised here.
        clock: unix time in seconds, for signatures.
        spawn: starts a task for a fan-out that takes more than one turn.
        delivered: told of each message that wants acks, with the sessions that are its addressees, if any.
        doubt: told when the replica may have missed something.
        unknown: told of each entry of the log that this version cannot read, and that its sessions are not told of.
    """

    def __init__(
        self,
        replica: Replica,
        *,
        counters: Counters,
        clock: Callable[[], float],
        spawn: Callable[[Callable[[], Awaitable[Any]]], None],
        delivered: "Callable[[Publication, list[Member]], None]",
        doubt: "Callable[[Room, str], None]",
        unknown: "Callable[[Room, Publication], None]",
    ) -> None:
        self.replica = replica
        self.members: dict[Member, None] = {}
        self.waiting: dict[Member, None] = {}  # sessions that came before the first snapshot
        self.ready = trio.Event()
        self.bell = Doorbell()  # wakes the task that keeps the replica right
        self.left_at = trio.current_time()
        self.generation = 0
        self.doubts = 0  # rises with each doubt: one that comes while the log is being read is not settled by that
        self.settled = 0  # how many of these doubts a comparison with the log has settled
        self.settling = trio.lowlevel.ParkingLot()  # for those who wait for that, and for all sessions to be told
        self.capped = 0  # entries that the log has ever lost to its size cap
        self._counters = counters
        self._clock = clock
        self._spawn = spawn
        self._delivered = delivered
        self._doubt = doubt
        self._unknown = unknown
        self._connection = 0  # which connection of the live channel was heard last
        self._joints: deque[Position] = deque(maxlen=MAX_JOINTS)  # where it was when it began to hear each of them
        self._ahead: dict[int, Publication] = {}
        self._queue: deque[_Item] = deque()
        self._fanning = False

    @property
    def organization_id(self) -> str:
        """Whose room it is."""
        return self.replica.organization_id

    @property
    def seq(self) -> int:
        """How far the replica has come."""
        return 0 if self.replica.position is None else self.replica.position.seq

    @property
    def ms(self) -> int:
        """The store's unix ms of the entry that the replica has come to."""
        return 0 if self.replica.position is None else self.replica.position.ms

    @property
    def read_up_to(self) -> Position | None:
        """The place from which the log is to be read on: the replica's own, unless there are joints to be looked at.

        A store that has lost what came last counts on from there, and what it then publishes may follow the very number
        that was lost. Only the entry of that number tells the two histories apart, so the log has to hold every joint.
        """
        return self._joints[0] if self._joints else self.replica.position

    @property
    def has_joints(self) -> bool:
        """Whether there are joints to be looked at."""
        return bool(self._joints)

    def confirm(self, place: Position) -> bool:
        """The log holds this place; tell whether that was a joint."""
        if self._joints and self._joints[0] is place:
            self._joints.popleft()
            return True
        return False

    @property
    def is_telling(self) -> bool:
        """Whether sessions are still being told of what the replica has come to."""
        return self._fanning

    @property
    def is_deserted(self) -> bool:
        """Whether nobody is here or about to come."""
        return not self.members and not self.waiting

    def join(self, member: "Member") -> None:
        """Add a session: its snapshot is that of this very moment, and it misses nothing that comes after."""
        member.begin(self.generation, self.seq, self.ms)
        member.resume(self.replica.position)
        self.waiting.pop(member, None)
        self.members[member] = None

    def leave(self, member: "Member") -> None:
        """Remove a session; safe during a fan-out."""
        self.waiting.pop(member, None)
        self.members.pop(member, None)
        if self.is_deserted:
            self.left_at = trio.current_time()

    def hear(self, payload: bytes, connection: int) -> None:
        """Take a message of the live channel, from the connection of this number."""
        if connection != self._connection:
            self._connection = connection
            self._ahead.clear()
            if self.replica.position is not None:
                self._joints.append(attrs.evolve(self.replica.position))  # no reading that is under way is of this one
                self.replica.suspect()
        try:
            publication = parse_live(payload)
        except NotALogEntry as error:
            self._doubt(self, f"not a log entry: {error}")
            return
        self.accept(publication)

    def accept(self, publication: Publication) -> None:
        """Take a publication, from the live channel or from the log, in whatever order they come."""
        verdict = self.replica.judge(publication)
        if verdict is Verdict.NEXT:
            self._take(publication)
            while self._ahead:
                following = self._ahead.pop(self.seq + 1, None)
                if following is None or self.replica.judge(following) is not Verdict.NEXT:
                    break
                self._take(following)
        elif verdict is Verdict.AHEAD:
            if len(self._ahead) < MAX_AHEAD:
                self._ahead[publication.seq] = publication
            self._doubt(self, "a gap")
        elif verdict is Verdict.STRANGE:
            self._doubt(self, "another log")

    def load(self, snapshot: Snapshot, workflows: dict[str, Known], recent: list[Publication]) -> None:
        """Begin a new life with what the store says; every session gets a fresh snapshot, in-band."""
        self.replica.load(snapshot, workflows, recent, trio.current_time())
        self._joints.clear()
        self._queue.clear()
        self._refresh()
        self.ready.set()
        ahead, self._ahead = self._ahead, {}
        for publication in sorted(ahead.values(), key=lambda each: each.seq):
            if publication.epoch == snapshot.epoch and publication.seq > self.seq:
                self.accept(publication)

    @property
    def has_gap(self) -> bool:
        """Whether publications wait for one that has not come."""
        return bool(self._ahead)

    def _take(self, publication: Publication) -> None:
        self.replica.take(publication)
        if publication.body is None:
            self._unknown(self, publication)
            return
        if not self.members:
            self._done(publication, [])
            return
        self._queue.append((publication, self.generation, publication.seq, publication.ms))
        if self._fanning:
            if len(self._queue) > MAX_QUEUED:
                self._queue.clear()
                self._refresh()
        elif len(self.members) <= AT_ONCE:
            while self._queue:
                self._tell_at_once(self._queue.popleft())
        else:
            self._begin_fan_out()

    def _refresh(self) -> None:
        self.generation += 1
        self._queue.append((None, self.generation, self.seq, self.ms))
        if not self._fanning:
            if len(self.members) <= AT_ONCE:
                self._tell_at_once(self._queue.popleft())
            else:
                self._begin_fan_out()

    def _begin_fan_out(self) -> None:
        self._fanning = True
        self._spawn(self._fan_out)

    def _tell_at_once(self, item: _Item) -> None:
        addressees: list[Member] = []
        second = int(self._clock())
        for member in list(self.members):
            self._tell(member, item, second, addressees)
        self._done(item[0], addressees)

    async def _fan_out(self) -> None:
        """Tell a large room what is queued, one after the other; whoever joins meanwhile knows it already."""
        turn = Turn()
        while self._queue:
            item = self._queue.popleft()
            addressees: list[Member] = []
            second = int(self._clock())
            for told, member in enumerate(list(self.members), 1):
                self._tell(member, item, second, addressees)
                if turn.is_over() or (item[0] is None and told % REFRESHED_AT_ONCE == 0):
                    await turn.end()
                    second = int(self._clock())
            self._done(item[0], addressees)
        self._fanning = False
        self.settling.unpark_all()

    def _tell(self, member: "Member", item: _Item, second: int, addressees: "list[Member]") -> None:
        publication, generation, seq, ms = item
        if publication is None:
            if member.generation < generation:
                member.begin(generation, seq, ms)
        elif (
            member.deliver(publication, generation, second)
            and publication.wants_ack
            and publication.is_for(member.bound)
        ):
            addressees.append(member)

    def _done(self, publication: Publication | None, addressees: "list[Member]") -> None:
        if publication is None:
            return
        publication.message.forget_frames()
        self._counters.control_sent += len(self.members)
        if publication.wants_ack:
            self._delivered(publication, addressees)
