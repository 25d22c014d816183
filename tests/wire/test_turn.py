"""Sharing the loop: when a turn is over."""

import time

import trio

from broker.wire.turn import MAX_SECONDS, MAX_WRITES, Turn


async def test_a_turn_is_over_after_so_many_writes() -> None:
    """Counted one by one or in lots, the bound is exact, and `end` begins anew."""
    turn = Turn()
    turn._until = float("inf")
    assert [turn.is_over() for _ in range(MAX_WRITES)] == [False] * (MAX_WRITES - 1) + [True]
    await turn.end()
    turn._until = float("inf")
    turn.spend(MAX_WRITES - 1)
    assert not turn.is_over(0)
    turn.spend(1)
    assert turn.is_over(0)


def test_a_turn_is_over_when_its_time_is() -> None:
    """However little was written."""
    turn = Turn()
    until = time.perf_counter() + MAX_SECONDS
    while time.perf_counter() <= until:
        pass
    assert turn.is_long()
    turn.spend(16)
    assert turn.is_over(0)


async def test_the_end_of_a_turn_lets_others_run() -> None:
    """Every task that can run has run when `end` returns."""
    ran: list[int] = []

    async def other(number: int) -> None:
        ran.append(number)

    turn = Turn()
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(other, number)
        await turn.end()
        await turn.end()
        assert sorted(ran) == [0, 1, 2]
