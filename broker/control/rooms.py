"""All rooms: opened when the first session comes, kept right against the log, closed some time after the last one."""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio
from redis.exceptions import RedisError

from broker.control.mending import Mender, Unreadable
from broker.control.publication import Publication
from broker.control.replica import Replica
from broker.control.room import Room
from broker.link.errors import LinkDown
from broker.link.subscriptions import SubscriptionLink
from broker.observe import Counters, Repeated
from broker.store.drive import Call
from broker.store.layout import Layout
from broker.store.limits import LogLimits

if TYPE_CHECKING:
    from broker.control.member import Member

CHECK_SECONDS = 5.0
"""How often a room is compared with its log even though nothing seems wrong: a message can be lost in silence."""

UNHEARD_SECONDS = 1.0
"""How often a room is compared with its log while its live channel is not heard: the command link may be up."""

KEPT_SECONDS = 60.0
"""How long an empty room is kept right for the client that comes back."""

RETRY_SECONDS = (0.05, 2.0)
"""The first and the longest pause between two tries to mend a room."""

RESYNC_SECONDS = 60.0
"""How long a store that answers may refuse a snapshot before clients are told to look elsewhere."""

GRACE_SECONDS = 1.0
"""How long looking something up may take before it counts as not knowing."""

MENDED_AT_ONCE = 64
"""Rooms that are read from the store at one time."""


class Rooms:
    """The organizations with sessions on this broker.

    Args:
        layout: names in the store.
        call: the command link's `call`.
        link: the control plane's subscription link.
        counters: `gap_repairs` and `control_inputs_refused` are raised here, more by the `Mender` and each `Room`.
        log: structlog.
        clock: unix time in seconds.
        window: `control.replay_window`, in seconds.
        limits: bounds of the log, and how long a message can be acknowledged.
        delivered: told of each message that wants acks, with the sessions that it was for.
    """

    def __init__(
        self,
        *,
        layout: Layout,
        call: Call,
        link: SubscriptionLink,
        counters: Counters,
        log: Any,
        clock: Callable[[], float],
        window: float,
        limits: LogLimits,
        delivered: "Callable[[Publication, list[Member]], None]",
    ) -> None:
        self._layout = layout
        self._link = link
        self._counters = counters
        self._log = log
        self._repeated = Repeated(log)
        self._clock = clock
        self._window = window
        self._receipt_ttl = limits.receipt_ttl
        self._delivered = delivered
        self._rooms: dict[str, Room] = {}
        self._in_doubt: dict[Room, float] = {}  # since when, in unix seconds
        self._mender = Mender(layout, call, window, limits, log, counters)
        self._mending = trio.Semaphore(MENDED_AT_ONCE)
        self._nursery: trio.Nursery | None = None

    def __len__(self) -> int:
        return len(self._rooms)

    def get(self, organization_id: str) -> Room | None:
        """Return the room of an organization, if there is one; it may not be ready."""
        return self._rooms.get(organization_id)

    @property
    def blind_since(self) -> float | None:
        """Unix time since when something may be missed (link down, gap not mended); None if all is well."""
        settled_by = self._clock() - GRACE_SECONDS
        times = [since for since in self._in_doubt.values() if since < settled_by]
        if not self._link.state.up:
            times.append(self._link.state.since)
        return min(times, default=None)

    @property
    def capped(self) -> int:
        """How many entries the logs of these organizations have lost to their size cap."""
        return sum(room.capped for room in self._rooms.values())

    def current(self, organization_id: str) -> Room | None:
        """Return the room of an organization if what it knows is what the store knows."""
        room = self._rooms.get(organization_id)
        if room is None or not room.ready.is_set() or room in self._in_doubt:
            return None
        return room if self._link.state.up and not self._link.restoring else None

    def enter(self, member: "Member") -> Room:
        """Return the room that a session may join once it is ready; it is opened if need be."""
        room = self._rooms.get(member.organization_id)
        if room is None:
            room = self._open(member.organization_id)
        room.waiting[member] = None
        return room

    def hear(self, organization_id: str, payload: bytes) -> None:
        """Take a message of an organization's live channel."""
        room = self._rooms.get(organization_id)
        if room is not None:
            room.hear(payload, self._link.generation)

    def restored(self) -> None:
        """The subscription link is back: what was published in between was not heard."""
        for room in self._rooms.values():
            self._doubt(room, "the link was down")

    async def compare(self, organization_id: str) -> None:
        """Return when all sessions of an organization were told what its log has by now; bring your own timeout."""
        room = self._rooms.get(organization_id)
        if room is None:
            return
        room.doubts += 1
        doubts = room.doubts
        room.bell.ring()
        while room.settled < doubts or room.is_telling:
            await room.settling.park()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the tasks of all rooms, until cancelled."""
        async with trio.open_nursery() as rooms:
            self._nursery = rooms
            task_status.started()
            while True:
                await self._link.wait_down()
                for room in self._rooms.values():
                    room.bell.ring()
                await self._link.wait_up()

    def _open(self, organization_id: str) -> Room:
        assert self._nursery is not None, "rooms are opened while run() runs"
        nursery = self._nursery
        room = self._rooms[organization_id] = Room(
            Replica(organization_id, self._window, self._receipt_ttl),
            counters=self._counters,
            clock=self._clock,
            spawn=nursery.start_soon,
            delivered=self._delivered,
            doubt=self._doubt,
            unknown=self._unknown,
        )
        self._in_doubt[room] = self._clock()
        nursery.start_soon(self._tend, room)
        return room

    def _doubt(self, room: Room, why: str) -> None:
        if room.ready.is_set() and room not in self._in_doubt:
            self._counters.gap_repairs += 1
            org = room.organization_id
            self._repeated.info(f"{org} {why}", "comparing with the log", org=org, why=why)
        self._in_doubt.setdefault(room, self._clock())
        room.doubts += 1
        room.bell.ring()

    def _unknown(self, room: Room, publication: Publication) -> None:
        org, code = room.organization_id, "unknown_control_message"
        self._counters.control_inputs_refused[code] += 1
        self._repeated.warning(f"{code} {org}", "control input refused", code=code, org=org, seq=publication.seq)

    async def _tend(self, room: Room) -> None:
        """Keep one room right for as long as it exists."""
        channel = self._layout.live(room.organization_id).encode()
        refused_since: float | None = None
        has_said = False
        failures = 0
        while True:
            heard = await self._is_heard(room, channel)
            doubts = room.doubts
            try:
                async with self._mending:
                    await self._mender.mend(room)
            except (LinkDown, trio.TooSlowError):
                refused_since = None  # nobody was there to refuse anything; what was said holds
            except (RedisError, Unreadable) as error:
                self._in_doubt.setdefault(room, self._clock())
                org = room.organization_id
                self._repeated.error(f"refused {org}", "cannot read an organization", org=org, error=error)
                refused_since = trio.current_time() if refused_since is None else refused_since
                has_said = has_said or self._give_up(room, refused_since, str(error))
            else:
                failures, refused_since, has_said = 0, None, False
                room.settled = doubts
                room.settling.unpark_all()
                if heard and not room.has_gap and room.doubts == doubts:
                    self._in_doubt.pop(room, None)
                with trio.move_on_after(CHECK_SECONDS * random.uniform(0.8, 1.2) if heard else 0):
                    await room.bell.wait()
                if room.is_deserted and trio.current_time() - room.left_at > KEPT_SECONDS:
                    break
                continue
            if not heard:
                continue  # that has taken its time, and ends the moment the channel is heard
            failures += 1
            await trio.sleep(min(RETRY_SECONDS[1], RETRY_SECONDS[0] * 2**failures) * random.uniform(0.5, 1))
        # no checkpoint up to here since nobody was found inside: whoever comes next opens a new room
        del self._rooms[room.organization_id]
        self._in_doubt.pop(room, None)
        self._link.unsubscribe(channel)

    async def _is_heard(self, room: Room, channel: bytes) -> bool:
        """Tell whether a room hears what goes on, waiting a while for that; refused by Redis, it does not."""
        with trio.move_on_after(UNHEARD_SECONDS * random.uniform(0.8, 1.2)):
            try:
                await self._link.subscribe(channel).wait()
                return True
            except RedisError as error:
                name = channel.decode()
                self._repeated.error(name, "a subscription is refused", channel=name, error=error)
                await trio.sleep_forever()
        if self._link.state.up:
            self._in_doubt.setdefault(room, self._clock())
        return False

    def _give_up(self, room: Room, since: float, why: str) -> bool:
        """The store answers but refuses: after a while, tell the sessions that we cannot know; returns whether we did.

        That is said once until a success, whether the link breaks meanwhile or not: clients leave for it, and who comes
        later has nothing yet that is out of date.
        """
        if trio.current_time() - since <= RESYNC_SECONDS:
            return False
        for member in [*room.members, *room.waiting]:
            member.resync(f"no snapshot can be had: {why}"[:200])
        return True
