"""The keys of live sessions, re-read when they change, on a timer, and closed to the second when they expire."""

import heapq
import math
from collections.abc import Awaitable, Callable

import attrs
import trio

from broker.keys.admission import judge
from broker.keys.errors import KeysUnavailable
from broker.store.key_record import KeyRecord

Callback = Callable[[KeyRecord | None], None]

REREAD_SECONDS = 10.0
"""How often every watched key is read again, whether or not it is said to have changed."""

WORKERS = 16
"""Tasks that re-read keys side by side."""

CALLBACKS_PER_TURN = 128
"""How many sessions are told of a change before others get their turn."""


@attrs.define(eq=False)
class _Watched:
    record: KeyRecord
    callbacks: dict[object, Callback] = attrs.field(factory=dict)
    over: bool = False  # everyone was told that the key admits nobody
    disputed: bool = False  # a session came with another record than this: everyone is told how it is


class Watches:
    """Who wants to hear about which key.

    Args:
        read: reads one key afresh by its hash; may raise KeysUnavailable, and is asked again by the timer then.
        clock: unix time in seconds.
    """

    def __init__(self, read: Callable[[str], Awaitable[KeyRecord | None]], clock: Callable[[], float]) -> None:
        self._read = read
        self._clock = clock
        self._watched: dict[str, _Watched] = {}
        self._expiries: list[tuple[int, str]] = []
        self._planned_at: dict[str, int] = {}  # for each hash in the heap, its first entry that counts
        self._suspects: dict[str, None] = {}
        self._wake = trio.Event()
        self._planned = trio.Event()

    @property
    def planned(self) -> int:
        """How many looks at keys are planned for when they expire; one for a key, however often its sessions come."""
        return len(self._expiries)

    def add(self, record: KeyRecord, callback: Callback, *, disputed: bool = False) -> Callable[[], None]:
        """Register `callback`; see `KeyCache.watch`. A disputed record is compared with the store at once."""
        watched = self._watched.get(record.hash)
        if watched is None:
            watched = self._watched[record.hash] = _Watched(record)
            self._plan_expiry(record)
        if disputed or (watched.record is not record and watched.record != record):
            watched.disputed = True
            self.suspect(record.hash)
        if watched.over:  # this one was let in before that, and was not among those who were told
            watched.over = False
            self._plan_expiry(watched.record)
            self.suspect(record.hash)
        token = object()
        watched.callbacks[token] = callback

        def forget() -> None:
            watched.callbacks.pop(token, None)
            if not watched.callbacks and self._watched.get(record.hash) is watched:
                del self._watched[record.hash]

        return forget

    def suspect(self, key_hash: str) -> None:
        """Have one key re-read at once, if anybody watches it."""
        if key_hash in self._watched:
            self._suspects[key_hash] = None
            self._wake.set()

    def suspect_all(self) -> None:
        """Have every watched key re-read soon."""
        self._suspects.update(dict.fromkeys(self._watched))
        self._wake.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do the re-reading, until cancelled."""
        async with trio.open_nursery() as readers:
            for _ in range(WORKERS):
                readers.start_soon(self._reread)
            readers.start_soon(self._reread_all_again_and_again)
            readers.start_soon(self._watch_expiries)
            task_status.started()

    async def _reread(self) -> None:
        while True:
            while not self._suspects:
                if self._wake.is_set():
                    self._wake = trio.Event()
                await self._wake.wait()
            key_hash = next(iter(self._suspects))
            del self._suspects[key_hash]
            try:
                record = await self._read(key_hash)
            except KeysUnavailable:
                continue  # the timer and the link's return both ask again
            await self._settle(key_hash, record)

    async def _settle(self, key_hash: str, record: KeyRecord | None) -> None:
        watched = self._watched.get(key_hash)
        if watched is None or record is None:
            return
        if record == watched.record and not watched.disputed and not self._newly_over(watched):
            return
        watched.record = record
        watched.disputed = False
        self._plan_expiry(record)
        await self._tell(watched)

    def _newly_over(self, watched: _Watched) -> bool:
        return not watched.over and judge(watched.record, self._clock()) is not None

    async def _tell(self, watched: _Watched) -> None:
        refused = judge(watched.record, self._clock()) is not None
        watched.over = refused
        news = None if refused else watched.record
        for told, callback in enumerate(list(watched.callbacks.values()), 1):
            callback(news)
            if told % CALLBACKS_PER_TURN == 0:
                await trio.lowlevel.checkpoint()

    async def _reread_all_again_and_again(self) -> None:
        while True:
            await trio.sleep(REREAD_SECONDS)
            self.suspect_all()

    def _plan_expiry(self, record: KeyRecord) -> None:
        """Have a key looked at when it expires; an earlier look, if one is planned, plans this one then."""
        expires_at = record.expires_at
        if expires_at is not None and expires_at < self._planned_at.get(record.hash, math.inf):
            self._planned_at[record.hash] = expires_at
            heapq.heappush(self._expiries, (expires_at, record.hash))
            self._planned.set()
            self._planned = trio.Event()

    async def _watch_expiries(self) -> None:
        while True:
            if not self._expiries:
                await self._planned.wait()
            await trio.sleep(0.5)  # wall clocks jump: a short look at the head of the heap is surer than one long sleep
            while self._expiries and self._expiries[0][0] <= self._clock():
                at, key_hash = heapq.heappop(self._expiries)
                if self._planned_at.get(key_hash) == at:
                    del self._planned_at[key_hash]
                watched = self._watched.get(key_hash)
                if watched is None:
                    continue
                if self._newly_over(watched):
                    await self._tell(watched)
                elif not watched.over:
                    self._plan_expiry(watched.record)
