"""Places for sessions: counted, bounded, waited for, given back."""

import pytest
import trio
import trio.testing

from broker.door.slots import Bound, Full, Slots


def test_places_are_bounded_and_come_back() -> None:
    """A place is refused at either bound and there again once one was given back."""
    slots = Slots(total=2, per_key=1)
    first = slots.take("a")
    with pytest.raises(Full) as full:
        slots.take("a")
    assert full.value.bound is Bound.KEY
    with slots.take("b"), pytest.raises(Full) as full:
        slots.take("c")
    assert full.value.bound is Bound.ALL
    with slots.take("c"):
        assert slots.taken == 2
    with first:
        pass
    assert (slots.taken, slots.taken_by("a")) == (0, 0)


async def test_waiting_ends_with_time(autojump_clock: trio.testing.MockClock) -> None:
    """One who waits in vain is told which bound it was, after the time that it gave."""
    slots = Slots(total=5, per_key=1)
    slots.take("a")
    started = trio.current_time()
    with pytest.raises(Full) as full:
        await slots.take_within("a", 8)
    assert full.value.bound is Bound.KEY
    assert trio.current_time() - started == 8
    assert slots.waiting == 0


async def test_waiting_goes_first(autojump_clock: trio.testing.MockClock) -> None:
    """A place that is free goes to those who wait, in their order; meanwhile those who do not wait are refused."""
    slots = Slots(total=1, per_key=1)
    held = slots.take("a")
    order: list[str] = []

    async def wait(key_id: str) -> None:
        with await slots.take_within(key_id, 60):
            order.append(key_id)
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for key_id in "bcd":
            nursery.start_soon(wait, key_id)
            await trio.testing.wait_all_tasks_blocked()
        with held:
            pass
        with pytest.raises(Full):
            slots.take("e")
    assert order == ["b", "c", "d"]
    slots.take("e")


async def test_no_wake_up_is_lost_between_two_bounds(autojump_clock: trio.testing.MockClock) -> None:
    """One who is woken for its key and then finds everything full does not keep others from their place."""
    slots = Slots(total=2, per_key=1)
    a, b = slots.take("a"), slots.take("b")
    done: list[str] = []

    async def wait(key_id: str) -> None:
        with await slots.take_within(key_id, 60):
            done.append(key_id)

    async with trio.open_nursery() as nursery:
        for key_id in ("a", "a", "c", "b", "c"):
            nursery.start_soon(wait, key_id)
            await trio.testing.wait_all_tasks_blocked()
        with a:
            pass
        await trio.testing.wait_all_tasks_blocked()
        with b:
            pass
    assert sorted(done) == ["a", "a", "b", "c", "c"]
    assert trio.current_time() < 60
    assert slots.taken == slots.waiting == 0
