"""The collector, as the daemon has it."""

import gc
from collections.abc import Iterator

import pytest
import trio

from broker.daemon import collector


@pytest.fixture
def tended() -> Iterator[None]:
    """Tend the collector for one test."""
    before = gc.get_threshold()
    collector.tend()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


class Thing:
    """Something that the collector looks at."""

    def __init__(self) -> None:
        self.held = [self.__class__]


def young() -> int:
    """How many objects the next collection has to look at."""
    return sum(len(gc.get_objects(generation)) for generation in (0, 1))


def test_each_object_is_looked_at_once(tended: None) -> None:
    """Whatever survives its first collection is old."""
    kept = [Thing() for _ in range(3 * collector.YOUNG)]
    assert young() <= 2 * collector.YOUNG
    assert len(gc.get_objects(2)) >= collector.YOUNG
    assert kept


async def test_replaced_objects_do_not_pile_up(
    tended: None, nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    """Old objects that make room for new ones, one by one, hide these from the count; the timer finds them."""
    kept = [Thing() for _ in range(20 * collector.YOUNG)]
    gc.collect(1)
    for at in range(len(kept)):
        kept[at] = Thing()
    assert young() > 10 * collector.YOUNG, "the count would have told"
    nursery.start_soon(collector.keep_young)
    await trio.sleep(2 * collector.INTERVAL)
    assert young() < collector.YOUNG
