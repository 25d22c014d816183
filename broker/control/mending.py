"""Making a room right: reading what it missed from the log, or beginning anew from a snapshot."""

from typing import Any

import trio

from broker.control.publication import Publication
from broker.control.replica import Known, known_workflow
from broker.control.room import Room
from broker.observe import Counters, Repeated
from broker.store.drive import Call, run
from broker.store.layout import Layout
from broker.store.limits import LogLimits
from broker.store.log import read_log, read_recent
from broker.store.restore import restore
from broker.store.snapshot import read_snapshot
from broker.wire.turn import Turn
from protocol.errors import ProtocolError

PAGE = 500
"""Entries of the log that are read at once."""

READ_SECONDS = 10.0
"""How long the store may take for one answer: a large organization needs many."""

MAX_ROUNDS = 1000
"""Pages that are read for one mending at the most."""


class Unreadable(Exception):
    """What is in the store cannot be made sense of."""


class Mender:
    """Compares rooms with the store.

    Args:
        layout: names in the store.
        call: the command link's `call`.
        window: how far back messages that no snapshot holds are read, in seconds.
        limits: bounds of the log, for scripts that write to it.
        log: structlog.
        counters: `control_repairs` is raised by each fresh snapshot of a room that had one, `restored` by each workflow
            that is written back.
    """

    def __init__(
        self, layout: Layout, call: Call, window: float, limits: LogLimits, log: Any, counters: Counters
    ) -> None:
        self._layout = layout
        self._call = call
        self._window = window
        self._limits = limits
        self._log = log
        self._repeated = Repeated(log)
        self._counters = counters

    async def mend(self, room: Room) -> None:
        """Bring a room level with the store.

        Raises:
            LinkDown: the store is away.
            trio.TooSlowError: it does not answer in time.
            RedisError, Unreadable: it answers, but not with what is needed.
        """
        try:
            for _ in range(MAX_ROUNDS):
                if await self._read_on(room):
                    return
        except (ProtocolError, ValueError, LookupError, TypeError) as error:
            raise Unreadable(f"unreadable: {error}") from error

    async def _ask(self, *words: object) -> object:
        with trio.fail_after(READ_SECONDS):
            return await self._call(*words)

    async def _read_on(self, room: Room) -> bool:
        """Take one page of the log, or a snapshot; tell whether the room is level."""
        position = room.read_up_to
        if position is None:
            await self._load(room)
            return True
        read = await run(self._ask, read_log(self._layout, room.organization_id, position, PAGE))
        self._note_capped(room, read.capped)
        if read.gap:
            await self._load(room, lost=read.lost)
            return True
        if room.confirm(position):
            return False  # what follows a joint is here, or elsewhere: the room goes on from its own place
        epoch = read.position.epoch
        for entry in read.entries:
            assert epoch is not None
            if entry.seq > room.seq:
                room.accept(Publication(epoch, entry.seq, entry.ms, entry.message))
        level = read.complete and not room.has_joints
        if level:
            room.replica.trust()
        return level

    async def _load(self, room: Room, lost: bool = False) -> None:
        if lost:
            await self._restore(room)
        asked_at = trio.current_time()
        snapshot = await run(self._ask, read_snapshot(self._layout, room.organization_id))
        self._note_capped(room, snapshot.capped)
        # so much later than the snapshot this may be, and still it reaches as far back as the window before that
        window = self._window + trio.current_time() - asked_at + READ_SECONDS + 1
        recent = await run(self._ask, read_recent(self._layout, room.organization_id, window))
        if room.ready.is_set():
            self._counters.control_repairs += 1
            had = room.replica.position
            self._log.warning(
                "fresh snapshot for all sessions",
                org=room.organization_id,
                sessions=len(room.members),
                had_epoch=had.epoch if had else None,
                had_seq=had.seq if had else None,
                epoch=snapshot.epoch,
                seq=snapshot.seq,
            )
        turn = Turn()
        workflows: dict[str, Known] = {}
        for workflow_id, stored in snapshot.workflows.items():
            workflows[workflow_id] = known_workflow(stored)
            if turn.is_over():
                await turn.end()
        publications: list[Publication] = []
        for each in recent:
            publications.append(Publication(snapshot.epoch or "", each.seq, each.ms, each.message))
            if turn.is_over():
                await turn.end()
        room.load(snapshot, workflows, publications)

    def _note_capped(self, room: Room, capped: int) -> None:
        """Say that a flood has pushed entries out of the log: what no snapshot holds may be among them."""
        if capped > room.capped and room.ready.is_set():
            org, cut = room.organization_id, capped - room.capped
            self._repeated.warning(f"capped {org}", "the log's size cap has cut entries", org=org, cut=cut)
        room.capped = capped

    async def _restore(self, room: Room) -> None:
        """The store may have forgotten something: write back what we know better."""
        position, known = room.read_up_to, room.replica.stored()
        assert position is not None
        restored = await run(
            self._ask, restore(self._layout, room.organization_id, known, position, limits=self._limits)
        )
        if restored.changed:
            self._counters.restored += len(restored.changed)
            self._log.error(
                "the store had lost decisions; they were written back",
                org=room.organization_id,
                workflows=list(restored.changed[:20]),
                count=len(restored.changed),
            )
