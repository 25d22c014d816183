"""Gathering publications when fan-out becomes a good part of all work."""

import pytest

from broker.events.pace import APART, CREDIT, LONGEST, SHARE, Pace


def rests(work: float, every: float, batches: int = 200, density: float = 1.0) -> list[float]:
    """Return the rests of batches that take `work` seconds and come `every` so many, or when the rest is over."""
    pace, now, made = Pace(0.0), 0.0, []
    for _ in range(batches):
        began = now
        now += work
        made.append(pace.rest_after(work, now, density))
        now = max(began + every, now + made[-1])
    return made


def test_little_work_never_waits() -> None:
    """Below the share every publication goes out the moment it is read."""
    assert set(rests(work=0.004, every=0.02)) == {0.0}


def test_a_burst_is_not_held_back() -> None:
    """Batches in quick succession after silence are within the credit."""
    assert rests(work=0.004, every=0.004, batches=6)[: int(CREDIT / 0.004)] == [0.0] * int(CREDIT / 0.004)


def test_much_work_comes_down_to_its_share() -> None:
    """Above the share the rests make fan-out take about that part of the time, and none is longer than the bound."""
    made = rests(work=0.003, every=0.0)
    assert max(made) <= LONGEST
    steady = made[50:]
    assert abs(0.003 * len(steady) / (0.003 * len(steady) + sum(steady)) - SHARE) < 0.05


def test_publications_that_come_apart_do_not_wait() -> None:
    """However much of the time they take: a rest would end before the next one comes. Those that come closer do."""
    assert set(rests(work=0.01, every=0.01 + APART + 0.001)) == {0.0}
    assert rests(work=0.01, every=0.01 + LONGEST)[-1] == pytest.approx(LONGEST)


def test_dense_batches_go_on_at_once() -> None:
    """When many publications share each write already, waiting would save nothing."""
    assert set(rests(work=0.02, every=0.0, density=50.0)) == {0.0}
