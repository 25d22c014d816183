"""Many small waits on one clock."""

import trio

from broker.wire.alarms import TICK, Alarms
from broker.wire.doorbell import Doorbell


async def test_alarms_ring_in_their_order_and_never_early(autojump_clock: trio.testing.MockClock) -> None:
    """Whatever the order in which they were set, each rings at its time, at most a tick late."""
    alarms, rung = Alarms(), []

    async def wait(seconds: float) -> None:
        bell = Doorbell()
        began = trio.current_time()
        due = alarms.set(bell, seconds)
        while trio.current_time() < due:
            await bell.wait()
        assert seconds <= trio.current_time() - began + 1e-9
        assert trio.current_time() - began <= seconds + TICK + 1e-9
        rung.append(seconds)

    async with trio.open_nursery() as nursery:
        await nursery.start(alarms.run)
        async with trio.open_nursery() as waiting:
            for seconds in (30.0, 1.5 * TICK, 10.0, 0.2 * TICK, 5.5, 30.0, 2.5 * TICK):
                waiting.start_soon(wait, seconds)
        nursery.cancel_scope.cancel()
    assert rung == sorted(rung)
    assert len(rung) == 7


async def test_a_sooner_alarm_is_not_held_up_by_a_later_one(autojump_clock: trio.testing.MockClock) -> None:
    """The clock that sleeps until the next alarm is told of one that comes before it."""
    alarms, later, sooner = Alarms(), Doorbell(), Doorbell()
    async with trio.open_nursery() as nursery:
        await nursery.start(alarms.run)
        began = trio.current_time()
        alarms.set(later, 100.0)
        await trio.testing.wait_all_tasks_blocked()
        alarms.set(sooner, 1.0)
        await sooner.wait()
        assert trio.current_time() - began < 1.0 + 2 * TICK
        await later.wait()
        assert trio.current_time() - began < 100.0 + 2 * TICK
        nursery.cancel_scope.cancel()


async def test_thousands_of_alarms_of_one_tick_share_the_loop(autojump_clock: trio.testing.MockClock) -> None:
    """All are rung, a turn at a time."""
    alarms, bells = Alarms(), [Doorbell() for _ in range(2000)]
    async with trio.open_nursery() as nursery:
        await nursery.start(alarms.run)
        for bell in bells:
            alarms.set(bell, 1.0)
        for bell in bells:
            await bell.wait()
        nursery.cancel_scope.cancel()
