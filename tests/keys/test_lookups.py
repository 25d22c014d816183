"""Made-up keys do not burden the store without bound."""

import trio
import trio.testing

from broker.keys import KeyCache, KeysUnavailable
from broker.keys.cache import LOOKUP_SECONDS, MAX_LOOKUPS
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

    cache = KeyCache(Layout(), call, Counters())
    outcomes: list[object] = []

    async def look_up(number: int) -> None:
        try:
            outcomes.append(await cache.lookup(f"guess{number}"))
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
    assert await cache.lookup("guess") is None
