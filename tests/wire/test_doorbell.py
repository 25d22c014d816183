import pytest
import trio

from broker.wire.doorbell import Doorbell


async def test_a_ring_before_the_wait_is_remembered_once() -> None:
    """Two rings with nobody waiting wake the next wait only."""
    bell = Doorbell()
    bell.ring()
    bell.ring()
    await bell.wait()
    with trio.move_on_after(0) as scope:
        await bell.wait()
    assert scope.cancelled_caught


async def test_a_ring_wakes_the_waiter(autojump_clock: trio.testing.MockClock) -> None:
    """A waiting task goes on when somebody rings, again and again."""
    bell, woken = Doorbell(), 0

    async def wait_thrice() -> None:
        nonlocal woken
        for _ in range(3):
            await bell.wait()
            woken += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_thrice)
        for expected in (1, 2, 3):
            await trio.testing.wait_all_tasks_blocked()
            bell.ring()
            await trio.testing.wait_all_tasks_blocked()
            assert woken == expected


async def test_a_cancelled_wait_leaves_the_bell_usable() -> None:
    """After a cancelled wait the bell can be rung and waited for again."""
    bell = Doorbell()
    with trio.move_on_after(0):
        await bell.wait()
    bell.ring()
    await bell.wait()


async def test_a_second_waiter_is_an_error_of_ours() -> None:
    """A doorbell has one waiter; a second one is told at once."""
    bell = Doorbell()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bell.wait)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RuntimeError):
            await bell.wait()
        bell.ring()


async def test_a_forgotten_ring_wakes_nobody() -> None:
    """`forget` takes back a ring that nobody has waited for."""
    bell = Doorbell()
    bell.ring()
    bell.forget()
    with trio.move_on_after(0) as scope:
        await bell.wait()
    assert scope.cancelled_caught
