"""The lateness of the event loop."""

import time

import trio

from broker.admin.lag import LoopLag


async def test_a_busy_loop_is_late(nursery: trio.Nursery) -> None:
    """Whatever holds the loop shows as lag, in the histogram and as the worst of the last minute."""
    lag = LoopLag()
    nursery.start_soon(lag.run)
    while not sum(lag.histogram.counts):
        await trio.sleep(0.01)
        time.sleep(0.12)
    assert lag.histogram.total > 0.01
    assert lag.worst > 0.01


async def test_the_worst_is_forgotten(autojump_clock: trio.abc.Clock) -> None:
    """After a minute and a slice the worst measurement counts no more; the histogram keeps it."""
    lag = LoopLag()
    now = trio.current_time()
    lag.note(now, 3.0)
    lag.note(now + 1, 0.5)
    assert lag.worst == 3.0
    await trio.sleep(30)
    lag.note(trio.current_time(), 0.25)
    assert lag.worst == 3.0
    await trio.sleep(31)
    assert lag.worst == 0.25
    assert lag.histogram.total == 3.75
