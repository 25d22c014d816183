"""A few at a time."""

import time

import trio
import trio.testing

from broker.wire.passes import Passes
from broker.wire.turnstile import Turnstile

AT_ONCE = 4
AT_LEAST = 500.0
EARLY = 0.004
FEW = 60


async def come(turnstile: Turnstile, passed: list[int], crowd: trio.Nursery) -> None:
    """Have a few wait before a turnstile, in order; each notes its number when it is through."""

    async def one(number: int) -> None:
        await turnstile.take_turn()
        passed.append(number)

    for number in range(FEW):
        crowd.start_soon(one, number)
        await trio.testing.wait_all_tasks_blocked()
    assert turnstile.waiting == FEW


async def test_a_few_at_a_time(nursery: trio.Nursery) -> None:
    """All who wait get through in order, only so many in one pass of the loop if that is short."""
    turnstile = Turnstile(AT_ONCE, 0.0, EARLY, Passes())
    passed: list[int] = []
    async with trio.open_nursery() as crowd:
        await come(turnstile, passed, crowd)
        nursery.start_soon(turnstile.run)
        before = 0
        while len(passed) < FEW:
            await trio.lowlevel.checkpoint()
            assert len(passed) <= before + 2 * AT_ONCE  # those of two passes: within one, the order is anything
            before = len(passed)
    passes = [sorted(passed[start : start + AT_ONCE]) for start in range(0, FEW, AT_ONCE)]
    assert passes == [list(range(start, start + AT_ONCE)) for start in range(0, FEW, AT_ONCE)]
    nursery.cancel_scope.cancel()


async def test_a_long_pass(nursery: trio.Nursery) -> None:
    """Where others are long at it, as many get through in a pass as keeps to a rate."""
    turnstile = Turnstile(AT_ONCE, AT_LEAST, EARLY, Passes())
    passed: list[int] = []
    async with trio.open_nursery() as crowd:
        await come(turnstile, passed, crowd)
        nursery.start_soon(turnstile.run)
        passes = 0
        while len(passed) < FEW:
            until = time.perf_counter() + 20 / AT_LEAST
            while time.perf_counter() < until:
                continue  # others hold the loop
            await trio.lowlevel.checkpoint()
            passes += 1
    assert passes <= 8  # four, if the loop always took tasks in the same order; fifteen and more without a rate
    nursery.cancel_scope.cancel()


async def test_who_goes_is_forgotten(nursery: trio.Nursery) -> None:
    """Whoever gives up while waiting keeps nobody else from passing."""
    turnstile = Turnstile(AT_ONCE, AT_LEAST, EARLY, Passes())
    with trio.move_on_after(0):
        await turnstile.take_turn()
    assert turnstile.waiting == 0
    nursery.start_soon(turnstile.run)
    await turnstile.take_turn()
    nursery.cancel_scope.cancel()


async def test_early_in_a_pass_nobody_waits(nursery: trio.Nursery) -> None:
    """Until a pass has lasted for so long all may pass, then they wait, and in the next pass it begins anew."""
    now = 0.0
    passes = Passes(clock=lambda: now)
    turnstile = Turnstile(AT_ONCE, 0.0, EARLY, passes)
    nursery.start_soon(turnstile.run)
    nursery.start_soon(passes.run)
    await trio.testing.wait_all_tasks_blocked()
    for _ in range(3):
        await trio.lowlevel.checkpoint()  # a pass begins
        now += 0.9 * EARLY
        assert all(turnstile.pass_at_once() for _ in range(2 * AT_ONCE))
        now += 0.2 * EARLY
        assert not turnstile.pass_at_once()
        await turnstile.pass_in_turn()
    turnstile.at_once = 0
    await trio.lowlevel.checkpoint()
    assert not turnstile.pass_at_once()
    nursery.cancel_scope.cancel()


async def test_nobody_overtakes(nursery: trio.Nursery) -> None:
    """While anybody waits, nobody passes without."""
    passes = Passes(clock=lambda: 0.0)
    turnstile = Turnstile(AT_ONCE, 0.0, EARLY, passes)
    passes.after_io_wait(0.0)
    assert turnstile.pass_at_once()
    nursery.start_soon(turnstile.take_turn)
    await trio.testing.wait_all_tasks_blocked()
    assert not turnstile.pass_at_once()
    nursery.cancel_scope.cancel()


async def test_when_the_turnstile_is_over_nobody_waits(nursery: trio.Nursery) -> None:
    """Who waits when `run` is cancelled gets through, and so does who comes later, whatever the pass has lasted."""
    turnstile = Turnstile(0, 0.0, EARLY, Passes())
    async with trio.open_nursery() as crowd:
        crowd.start_soon(turnstile.take_turn)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0):
            await turnstile.run()
    assert turnstile.pass_at_once()
    nursery.cancel_scope.cancel()


async def test_passes_watch_while_they_run(nursery: trio.Nursery) -> None:
    """The loop has one instrument more for just so long."""
    passes = Passes()
    assert passes.lasted > EARLY
    async with trio.open_nursery() as watching:
        watching.start_soon(passes.run)
        await trio.testing.wait_all_tasks_blocked()
        assert passes.lasted < 60
        watching.cancel_scope.cancel()
    before = passes.lasted
    await trio.testing.wait_all_tasks_blocked()
    assert passes.lasted > before
