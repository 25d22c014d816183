"""Places for sessions: counted, bounded, waited for, given back."""

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

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


places = st.tuples(st.sampled_from("abc"), st.none() | st.sampled_from(("1.1.1.1", "2.2.2.2")))


@settings(max_examples=60, deadline=None)
@given(
    wanted=st.lists(st.tuples(places, st.integers(1, 5)), max_size=25),
    total=st.integers(1, 6),
    per_key=st.integers(1, 4),
    per_address=st.integers(1, 4),
)
def test_everybody_gets_a_place_in_the_end(
    wanted: list[tuple[tuple[str, str | None], int]], total: int, per_key: int, per_address: int
) -> None:
    """Whoever comes, however long he stays: no bound is ever exceeded, no wake-up lost, and nothing is left taken."""
    slots = Slots(total, per_key, per_address)
    present: list[tuple[str, str | None]] = []

    async def stay(place: tuple[str, str | None], seconds: int) -> None:
        with await slots.take_within(place[0], 1000, place[1]):
            present.append(place)
            assert len(present) == slots.taken <= total
            assert sum(key == place[0] for key, _ in present) == slots.taken_by(place[0]) <= per_key
            assert place[1] is None or sum(host == place[1] for _, host in present) <= per_address
            await trio.sleep(seconds)
            present.remove(place)

    async def all_of_them() -> None:
        async with trio.open_nursery() as nursery:
            for place, seconds in wanted:
                nursery.start_soon(stay, place, seconds)
        assert trio.current_time() <= 5 * len(wanted)

    trio.run(all_of_them, clock=trio.testing.MockClock(autojump_threshold=0))
    assert slots.taken == slots.waiting == 0


async def test_who_was_woken_in_vain_and_gives_up(autojump_clock: trio.testing.MockClock) -> None:
    """One who finds another bound reached passes its wake-up on, that nobody sleeps on if it never gets a place."""
    slots = Slots(total=2, per_key=1)
    a, b = slots.take("a"), slots.take("b")
    done: list[str] = []

    async def give_up() -> None:
        with pytest.raises(Full):
            await slots.take_within("a", 5)

    async def wait() -> None:
        with await slots.take_within("a", 60):
            done.append("a")

    async with trio.open_nursery() as nursery:
        for task in (give_up, wait):
            nursery.start_soon(task)
            await trio.testing.wait_all_tasks_blocked()
        with a:
            pass
        taken_over = slots.take_over("c")
        await trio.sleep(10)
        with b:
            pass
        await trio.testing.wait_all_tasks_blocked()
        assert done == ["a"]
    with taken_over:
        pass
    assert slots.taken == slots.waiting == 0
