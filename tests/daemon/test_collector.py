"""The collector, as the daemon has it."""

import gc
import math
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from broker.daemon import collector
from tests.conftest import Valkey
from tests.e2e.broker import Broker, Installation
from tests.support import RawClient


@pytest.fixture
def tended() -> Iterator[None]:
    """Tend the collector for one test."""
    before = gc.get_threshold()
    collector.tend()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.fixture
def collected() -> Iterator[list[int]]:
    """Return the generations that were collected in a test, each time."""
    generations: list[int] = []

    def note(phase: str, info: dict[str, Any]) -> None:
        if phase == "start":
            generations.append(info["generation"])

    gc.callbacks.append(note)
    yield generations
    gc.callbacks.remove(note)


class Thing:
    """Something that the collector looks at."""

    def __init__(self) -> None:
        self.held = [self.__class__]


def young() -> int:
    """How many objects the next collection has to look at."""
    return sum(len(gc.get_objects(generation)) for generation in (0, 1))


def test_what_the_start_has_made_is_frozen(tended: None) -> None:
    """No collection looks at modules, classes and functions again, nor at many objects, nor at the oldest of all."""
    assert gc.get_freeze_count() > 10_000
    youngest, _, oldest = gc.get_threshold()
    assert youngest <= 10_000
    assert oldest > 1_000_000


def test_each_object_is_looked_at_once(tended: None, collected: list[int]) -> None:
    """Whatever survives its first collection is old."""
    kept = [Thing() for _ in range(3 * collector.YOUNG)]
    assert young() <= 2 * collector.YOUNG
    assert len(gc.get_objects(2)) >= collector.YOUNG
    assert set(collected) == {1}
    assert kept


async def test_replaced_objects_do_not_pile_up(
    tended: None, collected: list[int], nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    """Old objects that make room for new ones, one by one, hide these from the count; the timer finds them, alone."""
    kept = [Thing() for _ in range(20 * collector.YOUNG)]
    gc.collect(1)
    for at in range(len(kept)):
        kept[at] = Thing()
    assert young() > 10 * collector.YOUNG, "the count would have told"
    nursery.start_soon(collector.keep_young)
    await trio.sleep(1)
    assert young() < collector.YOUNG
    assert 2 not in collected, "old objects are never looked at"


async def test_who_has_little_to_collect_sleeps_longer(
    tended: None,
    collected: list[int],
    nursery: trio.Nursery,
    autojump_clock: trio.abc.Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While collections are quick there is one every two seconds, and after one that took long the next comes soon."""
    monkeypatch.setattr(collector, "QUICK", math.inf)
    nursery.start_soon(collector.keep_young)
    await trio.sleep(collector.INTERVAL + 0.1)
    assert len(collected) == 1
    await trio.sleep(5 * collector.QUIET_INTERVAL)
    assert len(collected) == 6
    monkeypatch.setattr(collector, "QUICK", 0.0)
    await trio.sleep(collector.QUIET_INTERVAL)
    assert len(collected) == 7
    await trio.sleep(6 * collector.INTERVAL)
    assert len(collected) == 13


Metrics = dict[str, float]


async def metrics(broker: Broker, wanted: Callable[[Metrics], bool]) -> Metrics:
    """Read a daemon's metrics until they are as wanted, and return them."""
    host, _, port = broker.logged("admin listening")["on"][0].rpartition(":")
    with trio.fail_after(10):
        while True:
            async with await RawClient.connect((host, int(port))) as client:
                page = (await client.request("GET", "/metrics")).body.decode()
            pairs = (line.rpartition(" ") for line in page.splitlines() if not line.startswith("#"))
            found = {name: float(value) for name, _, value in pairs}
            if wanted(found):
                return found
            await trio.sleep(0.1)


async def test_the_daemon_tends_its_collector(valkey: Valkey, tmp_path: Path) -> None:
    """The daemon looks at the young two generations together, never at one alone, also when nothing happens."""
    youngest, middle = (f'python_gc_collections_total{{generation="{number}"}}' for number in (0, 1))
    with Installation.write(tmp_path, redis={"url": valkey.url}).serve() as broker, ExitStack() as clients:
        before = await metrics(broker, lambda _: True)
        for _ in range(200):
            clients.enter_context(socket.create_connection(broker.address))
        busy = await metrics(broker, lambda found: found["signalbox_accepted_total"] == 200)
        assert busy[youngest] == before[youngest]
        await metrics(broker, lambda found: found[middle] >= busy[middle] + 2)
