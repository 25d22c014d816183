"""Listings: all workflows of an organization as JSON, for those who poll; the store is asked once for all of them."""

from typing import Any

import attrs
import trio
from redis.exceptions import RedisError

from broker.control.room import Room
from broker.control.rooms import Rooms
from broker.control.snapshot import entry
from broker.observe import Repeated
from broker.store.drive import Call, run
from broker.store.layout import Layout
from broker.store.snapshot import Position, Snapshot, read_snapshot
from broker.wire.turn import Turn
from protocol.errors import ProtocolError

FRESH_SECONDS = 1.0
"""How much older than a request the listing may be that answers it."""

READS_AT_ONCE = 2
"""Organizations that are read from the store at one time: kills share the command link with what they bring."""

READ_SECONDS = 10.0
"""How long the store may take for one listing."""

LARGE_BYTES = 64 * 1024
"""From this size on, one listing is handed out in each pass of the loop: every answer takes a copy of it."""


@attrs.frozen(eq=False)
class _Listing:
    position: Position
    asked_at: float  # trio time before the store was asked
    text: bytes
    made_at: float = attrs.field(factory=trio.current_time)


@attrs.define(eq=False)
class _Flight:
    """One reading under way, which everybody who asks for the same organization waits for."""

    landed: trio.Event = attrs.field(factory=trio.Event)
    failure: str = ""


class Listings:
    """What every workflow of an organization is: from its room while that is current, otherwise from the store.

    A reading belongs to nobody who waits for it: when they all give up it goes on, and answers whoever asks again.

    Args:
        layout: names in the store.
        call: the command link's `call`.
        rooms: the organizations with sessions here.
        log: structlog.
    """

    def __init__(self, layout: Layout, call: Call, rooms: Rooms, log: Any) -> None:
        self._layout = layout
        self._call = call
        self._rooms = rooms
        self._log = Repeated(log)
        self._kept: dict[str, _Listing] = {}
        self._flights: dict[str, _Flight] = {}
        self._reads = trio.Semaphore(READS_AT_ONCE)
        self._handing_out = trio.Lock()
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the readings that are under way, until cancelled."""
        async with trio.open_nursery() as readings:
            self._nursery = readings
            task_status.started()
            await trio.sleep_forever()

    async def of(self, organization_id: str) -> bytes:
        """Return the workflows of an organization as a JSON array.

        It is at most `FRESH_SECONDS` older than this call, and holds all that sessions here were told before it.

        Raises:
            RedisError: the store cannot be asked, or has not answered in `READ_SECONDS`.
        """
        text = await self._find(organization_id)
        if len(text) >= LARGE_BYTES:
            async with self._handing_out:
                await trio.lowlevel.checkpoint()
        return text

    async def _find(self, organization_id: str) -> bytes:
        asked_at = trio.current_time()
        room = self._rooms.get(organization_id)
        told = None if room is None else room.replica.position
        while True:
            current = self._rooms.current(organization_id)
            if current is not None:
                return self._from_room(current)
            listing = self._kept.get(organization_id)
            if listing is not None and _serves(listing, asked_at, told):
                return listing.text
            flight = self._flights.get(organization_id) or self._depart(organization_id)
            await flight.landed.wait()
            if flight.failure:
                raise RedisError(flight.failure)

    def _from_room(self, room: Room) -> bytes:
        """Return what a room knows, encoded once for as long as nothing happens: hundreds may wait for their copies."""
        position = room.replica.position
        assert position is not None, "a room that is current has been loaded"
        listing = self._kept.get(room.organization_id)
        if listing is None or listing.position != position:
            text = _array([known.fragment for known in room.replica.workflows.values()])
            listing = _Listing(position, trio.current_time(), text)
            self._keep(room.organization_id, listing)
        return listing.text

    def _keep(self, organization_id: str, listing: _Listing) -> None:
        assert self._nursery is not None, "listings are kept while run() runs"
        if organization_id not in self._kept:
            self._nursery.start_soon(self._forget, organization_id)
        self._kept[organization_id] = listing

    async def _forget(self, organization_id: str) -> None:
        """Let go of what is kept of an organization once nothing newer has taken its place for so long."""
        seconds = FRESH_SECONDS
        while seconds > 0:
            await trio.sleep(seconds)
            seconds = self._kept[organization_id].made_at + FRESH_SECONDS - trio.current_time()
        del self._kept[organization_id]

    def _depart(self, organization_id: str) -> _Flight:
        assert self._nursery is not None, "listings are read while run() runs"
        flight = self._flights[organization_id] = _Flight()
        self._nursery.start_soon(self._fly, organization_id, flight)
        return flight

    async def _fly(self, organization_id: str, flight: _Flight) -> None:
        flight.failure = "the reading was cancelled"
        try:
            async with self._reads:
                with trio.fail_after(READ_SECONDS):
                    self._keep(organization_id, await self._read(organization_id))
            flight.failure = ""
        except (RedisError, trio.TooSlowError) as error:
            flight.failure = str(error) or "the store does not answer"
        except (ProtocolError, ValueError, LookupError, TypeError) as error:
            self._log.error(organization_id, "cannot read an organization", org=organization_id, error=error)
            flight.failure = f"unreadable: {error}"
        finally:
            del self._flights[organization_id]
            flight.landed.set()

    async def _read(self, organization_id: str) -> _Listing:
        asked_at = trio.current_time()
        snapshot = await run(self._call, read_snapshot(self._layout, organization_id))
        return _Listing(snapshot.position, asked_at, await listing_of(snapshot))


def _serves(listing: _Listing, asked_at: float, told: Position | None) -> bool:
    """Tell whether a listing is new enough for a request, which knows how far sessions here had been told by then."""
    if listing.asked_at >= asked_at:
        return True
    if listing.asked_at < asked_at - FRESH_SECONDS:
        return False
    return told is None or (told.epoch == listing.position.epoch and told.seq <= listing.position.seq)


async def listing_of(snapshot: Snapshot) -> bytes:
    """Encode the workflows of a snapshot in turns, and let go of them one by one: freeing thousands takes long, too."""
    turn = Turn()
    entries: list[bytes] = []
    for workflow_id in list(snapshot.workflows):
        entries.append(entry(snapshot.workflows.pop(workflow_id).workflow))
        if turn.is_over():
            await turn.end()
    return _array(entries)


def _array(entries: list[bytes]) -> bytes:
    return b"[%b]" % b",".join(entries)
