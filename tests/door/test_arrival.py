"""The line before the door: whoever crowds it crowds himself."""

import pytest
import trio
import trio.testing

from broker.door.arrival import Arrival, Line, LineFull
from broker.http.gate import Gate


async def arrive(line: Line, host: str, seconds: float = 60.0) -> Arrival:
    """Come from this address, and wait for the turn."""
    arrival = Arrival(line, line.gate.enter())
    try:
        await arrival.line_up(host, seconds)
    except BaseException:
        arrival.leave()
        raise
    return arrival


async def test_no_crowd_of_addresses_takes_the_last_place(nursery: trio.Nursery) -> None:
    """A dozen addresses that take all they can get leave room: each has its share, and a newcomer is let in at once."""
    line = Line(Gate(limit=256), per_address=100)
    attackers = [f"198.51.100.{number}" for number in range(12)]
    for _ in range(50):
        for host in attackers:
            nursery.start_soon(arrive, line, host)
    await trio.testing.wait_all_tasks_blocked()
    assert line.waiting > 300
    assert 12 <= line.gate.inside < 256
    shares = [line.inside(host) for host in attackers]
    assert max(shares) <= 64
    assert min(shares) >= 1
    for number in range(10):
        await arrive(line, f"203.0.113.{number}", 0.0)
    nursery.cancel_scope.cancel()


async def test_alone_an_address_has_its_whole_share(nursery: trio.Nursery) -> None:
    """One address gets as much as `per_address`, the next one waits, and gets the place of the first that leaves."""
    line = Line(Gate(limit=400), per_address=50)
    inside = [await arrive(line, "a") for _ in range(50)]
    assert line.gate.inside == 50
    with pytest.raises(LineFull):
        await arrive(line, "a", 0.0)
    nursery.start_soon(arrive, line, "a")
    await trio.testing.wait_all_tasks_blocked()
    assert (line.waiting, line.gate.inside) == (1, 50)
    inside.pop().leave()
    await trio.testing.wait_all_tasks_blocked()
    assert (line.waiting, line.gate.inside, line.inside("a")) == (0, 50, 50)
    for arrival in inside:
        arrival.leave()
        arrival.leave()
    assert line.gate.inside == line.inside("a") == 1


async def test_a_share_grows_again_when_the_crowd_is_gone(nursery: trio.Nursery) -> None:
    """Who waited because of others is let in, all at once, with the next of his own that leaves."""
    line = Line(Gate(limit=40), per_address=40)
    others = [await arrive(line, f"other{number}") for number in range(37)]
    (first,) = [await arrive(line, "a")]
    for _ in range(5):
        nursery.start_soon(arrive, line, "a")
    await trio.testing.wait_all_tasks_blocked()
    assert (line.inside("a"), line.waiting) == (1, 5)
    for arrival in others:
        arrival.leave()
    first.leave()
    await trio.testing.wait_all_tasks_blocked()
    assert (line.inside("a"), line.waiting) == (5, 0)


async def test_who_gives_up_waiting_leaves_nothing_behind(autojump_clock: trio.testing.MockClock) -> None:
    """A turn that does not come in time is told, and what waited is forgotten."""
    line = Line(Gate(limit=40), per_address=1)
    only = await arrive(line, "a")
    with pytest.raises(LineFull):
        await arrive(line, "a", 10)
    assert trio.current_time() == pytest.approx(10)
    assert (line.waiting, line.gate.inside) == (0, 1)
    only.leave()
    (await arrive(line, "a", 0.0)).leave()
    assert (line.waiting, line.gate.inside, line.inside("a")) == (0, 0, 0)


async def test_nobody_overtakes_who_waits(nursery: trio.Nursery) -> None:
    """When there is room again, it is for those of the address who came first; others do not pass them."""
    line = Line(Gate(limit=40), per_address=1)
    only = await arrive(line, "a")
    nursery.start_soon(arrive, line, "a")
    await trio.testing.wait_all_tasks_blocked()
    line.per_address = 2
    assert not line.take_at_once("a")
    assert line.take_at_once("b")
    only.leave()
    await trio.testing.wait_all_tasks_blocked()
    assert (line.waiting, line.inside("a")) == (0, 1)
    assert line.take_at_once("a")
