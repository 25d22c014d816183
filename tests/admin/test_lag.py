"""How long the event loop is held."""

import time
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from broker.admin.lag import LoopLag


async def test_every_stop_is_seen(nursery: trio.Nursery) -> None:
    """A single stop shows in the histogram and as the worst of the last minute, however short the rest is."""
    lag = LoopLag()
    await nursery.start(lag.run)
    await trio.testing.wait_all_tasks_blocked()
    passes = sum(lag.histogram.counts)
    time.sleep(0.05)
    await trio.testing.wait_all_tasks_blocked()
    assert sum(lag.histogram.counts) > passes
    assert lag.histogram.total >= 0.05
    assert lag.worst() >= 0.05


def test_every_pass_is_counted() -> None:
    """The histogram has every pass in its bucket, also those that are short and follow a longer one."""
    now = 100.0

    def looks() -> Iterator[float]:
        nonlocal now
        for lag in (0.0007, 0.0001, 0.0002, 0.0004, 0.0002, 0.0042, 0.0001):
            yield now  # the loop has woken
            now += lag
            yield now
            now += 1.0

    lag = LoopLag(clock=looks().__next__)
    for _ in range(7):
        lag.after_io_wait(1.0)
        lag.before_io_wait(1.0)
    assert lag.histogram.counts == [5, 1, 0, 1, *[0] * 11]
    assert lag.histogram.total == pytest.approx(0.0059)
    assert lag.worst(now) == pytest.approx(0.0042)


async def test_an_idle_loop_is_not_woken(autojump_clock: trio.abc.Clock, nursery: trio.Nursery) -> None:
    """Who measures wakes nobody."""
    lag = LoopLag()
    await nursery.start(lag.run)
    await trio.sleep(1)
    passes = sum(lag.histogram.counts)
    await trio.sleep(1000)
    assert sum(lag.histogram.counts) - passes <= 4


def test_the_worst_is_forgotten() -> None:
    """After a minute and a slice the worst measurement counts no more; the histogram keeps it."""
    lag = LoopLag()
    lag.note(100.0, 3.0)
    lag.note(101.0, 0.5)
    assert lag.worst(101.0) == 3.0
    lag.note(130.0, 0.25)
    assert lag.worst(130.0) == 3.0
    assert lag.worst(161.0) == 0.25
    assert lag.histogram.total == 3.75
