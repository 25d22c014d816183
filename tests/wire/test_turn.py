"""Sharing the loop: when a turn is over."""

from types import SimpleNamespace

import pytest
import trio

from broker.wire import turn as module
from broker.wire.turn import Turn


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return a clock that stands at `now`, and is what turns look at."""
    made = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: made.now))
    return made


async def test_a_turn_is_over_after_256_writes(clock: SimpleNamespace) -> None:
    """Counted one by one or in lots, the bound is exact, and `end` begins anew."""
    turn = Turn()
    assert [turn.is_over() for _ in range(256)] == [False] * 255 + [True]
    assert turn.take(1) == 0
    await turn.end()
    assert [turn.take(100) for _ in range(4)] == [100, 100, 56, 0]
    await turn.end()
    assert turn.take(257) == 256


async def test_a_turn_is_over_after_2_ms(clock: SimpleNamespace) -> None:
    """However little was written, and `end` begins anew."""
    turn = Turn()
    for _ in range(2):
        assert turn.take(1) == 1
        clock.now += 0.0019
        assert not turn.is_long()
        assert turn.take(1) == 1
        clock.now += 0.0002
        assert turn.is_long()
        assert turn.take(1) == 0
        await turn.end()
    assert [turn.is_over() for _ in range(16)] == [False] * 16
    clock.now += 0.0021
    assert any(turn.is_over() for _ in range(16))
    await turn.end()
    clock.now += 0.0021
    assert turn.take(1) == 1, "whoever has only just begun has something of it"


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
