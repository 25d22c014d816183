"""How long a reader is paused without a break."""

import pytest
import trio
import trio.testing

from broker.wire.bucket import TokenBucket
from broker.wire.pausing import BREAK, Pausing


async def test_pauses_add_up(autojump_clock: trio.testing.MockClock) -> None:
    """Pauses with hardly anything between them are one, but what is between them is none; a break ends it."""
    pausing = Pausing()
    assert pausing.seconds == 0.0
    for _ in range(100):
        await pausing.pause(0.1)
        await trio.sleep(BREAK - 0.01)
    assert pausing.seconds == pytest.approx(10)
    await trio.sleep(0.02)
    assert pausing.seconds == 0.0
    await pausing.pause(0.1)
    assert pausing.seconds == pytest.approx(0.1)


@pytest.mark.parametrize("late", [0.0, 0.005, 0.05, 0.2])
async def test_who_never_relents_is_paused_without_a_break(autojump_clock: trio.testing.MockClock, late: float) -> None:
    """However late the pauses end, one who sends whenever it may is paused nearly all of the time."""
    bucket = TokenBucket(100, 50, trio.current_time())
    bucket.take(trio.current_time(), 100)
    pausing, began = Pausing(), trio.current_time()
    while pausing.seconds < 10:
        wait = bucket.take(trio.current_time())
        if wait:
            await pausing.pause(wait + late)
        else:
            await trio.sleep(0.0001)
    assert trio.current_time() - began < 11


async def test_a_pause_that_lasts_too_long(mock_clock: trio.testing.MockClock) -> None:
    """What counts is for how long the peer was held back, not for how long it should have been."""
    pausing = Pausing()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pausing.pause, 1.0)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(3.0)
    assert pausing.seconds == 3.0
