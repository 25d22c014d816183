"""Live sessions and their keys: who is told of a change, how soon, and what is left when nobody watches."""

from itertools import pairwise

import attrs
import pytest
import trio
from trio.testing import MockClock

from broker.keys.watches import CALLBACKS_PER_TURN, Watches
from broker.store.key_record import KeyRecord

RECORD = KeyRecord("0" * 64, "key_1", "acme")
NEWER = attrs.evolve(RECORD, version=2)


@attrs.define(eq=False)
class Store:
    """What the store says of the one key, how often it was asked, and what time it is."""

    record: KeyRecord = RECORD
    reads: int = 0
    now: float = 1_000_000.0

    async def read(self, key_hash: str) -> KeyRecord:
        assert key_hash == RECORD.hash
        self.reads += 1
        await trio.lowlevel.checkpoint()
        return self.record

    def clock(self) -> float:
        return self.now


@pytest.fixture
def store() -> Store:
    """A store that knows the key as it was first."""
    return Store()


@pytest.fixture
async def watches(store: Store, nursery: trio.Nursery) -> Watches:
    """Watches that run."""
    watches = Watches(store.read, store.clock)
    await nursery.start(watches.run)
    return watches


async def test_a_key_that_nobody_watches_is_not_read(store: Store, watches: Watches, autojump_clock: MockClock) -> None:
    """Once its last session is over a key costs nothing any more, neither by the timer nor when it changes."""
    forget, forget_other = watches.add(RECORD, lambda _: None), watches.add(RECORD, lambda _: None)
    await trio.sleep(10.1)
    assert store.reads == 1
    forget()
    await trio.sleep(10.1)
    assert store.reads == 2
    forget_other()
    watches.suspect(RECORD.hash)
    await trio.sleep(30)
    assert store.reads == 2


async def test_a_newer_session_brings_the_news(store: Store, watches: Watches, autojump_clock: MockClock) -> None:
    """A session that comes with another record than the others have makes all of them hear at once how it is."""
    first: list[KeyRecord | None] = []
    second: list[KeyRecord | None] = []
    watches.add(RECORD, first.append)
    store.record = NEWER
    watches.add(NEWER, second.append)
    await trio.sleep(0.1)
    assert (first, second) == ([NEWER], [NEWER])


async def test_an_expiry_that_is_set_later(store: Store, watches: Watches, autojump_clock: MockClock) -> None:
    """A key that gets an expiry while it is in use ends its sessions then, to the second."""
    heard: list[KeyRecord | None] = []
    watches.add(RECORD, heard.append)
    store.record = attrs.evolve(RECORD, expires_at=1_000_050)
    watches.suspect(RECORD.hash)
    await trio.sleep(1)
    assert heard == [store.record]
    store.now = 1_000_050.0
    await trio.sleep(1)
    assert heard == [store.record, None]


async def test_thousands_are_told_in_turns(store: Store, watches: Watches, autojump_clock: MockClock) -> None:
    """While very many sessions of one key are told of a change, others get their turn after each so many."""
    count = 8 * CALLBACKS_PER_TURN
    heard: list[KeyRecord | None] = []
    for _ in range(count):
        watches.add(RECORD, heard.append)
    store.record = NEWER
    watches.suspect(RECORD.hash)
    seen = [0]
    while seen[-1] < count:
        await trio.lowlevel.checkpoint()
        seen.append(len(heard))
    # of two tasks that are ready in each round, one may be the first of this round and the last of the one before
    assert max(later - sooner for sooner, later in pairwise(seen)) <= 2 * CALLBACKS_PER_TURN
