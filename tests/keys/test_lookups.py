"""Made-up keys do not burden the store without bound."""

import pytest
import trio
import trio.testing

from broker.keys import KeyCache, KeysUnavailable, cache
from broker.keys.cache import LOOKUP_SECONDS, MAX_LOOKUPS
from broker.link.errors import LinkDown
from broker.observe import Counters
from broker.store.layout import Layout


async def test_look_ups_are_bounded(autojump_clock: trio.testing.MockClock) -> None:
    """As many look-ups as allowed are under way at once; the one more waits, and is told when that takes too long."""
    asked = 0
    answer = trio.Event()

    async def call(*_args: object) -> object:
        nonlocal asked
        asked += 1
        await answer.wait()
        return {}

    keys = KeyCache(Layout(), call, Counters())
    outcomes: list[object] = []

    async def look_up(number: int) -> None:
        try:
            outcomes.append(await keys.lookup(f"guess{number}"))
        except KeysUnavailable:
            outcomes.append(KeysUnavailable)

    async with trio.open_nursery() as nursery:
        for number in range(MAX_LOOKUPS + 1):
            nursery.start_soon(look_up, number)
        await trio.testing.wait_all_tasks_blocked()
        assert asked == MAX_LOOKUPS
    assert trio.current_time() >= LOOKUP_SECONDS
    assert outcomes == [KeysUnavailable] * (MAX_LOOKUPS + 1)
    answer.set()
    assert await keys.lookup("guess") is None


async def test_what_is_too_long_is_no_key() -> None:
    """A key of more than 512 characters is unknown without asking: whoever sends it makes the store no work."""
    asked: list[object] = []

    async def call(*words: object) -> object:
        asked.append(words)
        await trio.lowlevel.checkpoint()
        return {}

    keys = KeyCache(Layout(), call, Counters())
    assert await keys.lookup("x" * 513) is await keys.lookup("") is None
    assert not asked
    assert await keys.lookup("x" * 512) is None
    assert len(asked) == 1


async def test_the_longest_unconfirmed_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both tables are bounded, of the keys that there are and of those that there are not."""
    monkeypatch.setattr(cache, "MAX_KNOWN", 2)
    monkeypatch.setattr(cache, "MAX_UNKNOWN", 2)
    found: dict[bytes, bytes] = {}

    async def call(*_words: object) -> object:
        await trio.lowlevel.checkpoint()
        return found

    counters = Counters()
    keys = KeyCache(Layout(), call, counters)
    for table in ({}, {b"key_id": b"k", b"organization_id": b"acme", b"status": b"active"}):
        found = table
        counters.key_lookups = 0
        for api_key in ("a", "b", "c", "c", "b"):
            await keys.lookup(f"{api_key}{len(table)}")
        assert counters.key_lookups == 3
        await keys.lookup(f"a{len(table)}")
        assert counters.key_lookups == 4


async def test_what_was_confirmed_again_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """It is not the key that was first asked for that goes, but the one that was not confirmed for the longest time."""
    monkeypatch.setattr(cache, "MAX_KNOWN", 2)

    async def call(*_words: object) -> object:
        await trio.lowlevel.checkpoint()
        return {b"key_id": b"k", b"organization_id": b"acme", b"status": b"active"}

    keys = KeyCache(Layout(), call, Counters())
    await keys.lookup("a")
    await keys.lookup("b")
    await trio.sleep(10.1)
    await keys.lookup("a")
    await keys.lookup("c")
    assert [keys.recall(each) is not None for each in "abc"] == [True, False, True]


async def test_confirmed_when_it_was_asked(autojump_clock: trio.testing.MockClock) -> None:
    """A record is as old as its question, not as its answer, which may have been long on its way."""

    async def call(*_words: object) -> object:
        await trio.sleep(2)
        return {b"key_id": b"k", b"organization_id": b"acme", b"status": b"active"}

    counters = Counters()
    keys = KeyCache(Layout(), call, counters)
    await keys.lookup("a")
    await trio.sleep(7.9)
    await keys.lookup("a")
    assert counters.key_lookups == 1
    await trio.sleep(0.2)
    await keys.lookup("a")
    assert counters.key_lookups == 2


async def test_a_failure_is_told_to_all_who_wait_for_it() -> None:
    """Of many who ask for one key while the store is away one asks, and all hear that there is no answer."""
    refused = 0

    async def call(*_words: object) -> object:
        await trio.lowlevel.checkpoint()
        raise LinkDown("cut")

    counters = Counters()
    keys = KeyCache(Layout(), call, counters)

    async def look_up() -> None:
        nonlocal refused
        try:
            await keys.lookup("a")
        except KeysUnavailable:
            refused += 1

    async with trio.open_nursery() as askers:
        for _ in range(100):
            askers.start_soon(look_up)
    assert (refused, counters.key_lookups) == (100, 1)
