"""Saying the same thing at most once in a while."""

from typing import Any

from broker.observe import Counters, Repeated
from broker.observe.repeated import MAX_KEYS


class Heard:
    """A log that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def warning(self, event: str, **fields: Any) -> None:
        """Remember a line."""
        self.lines.append((event, fields))

    info = error = warning


def test_the_same_complaint_is_counted_instead_of_repeated() -> None:
    """Within the interval nothing is said; after it the next line tells how many there were."""
    now, heard = [0.0], Heard()
    repeated = Repeated(heard, interval=60, clock=lambda: now[0])
    assert repeated.warning("redis", "redis is away", error="refused")
    assert not repeated.warning("redis", "redis is away")
    assert not repeated.warning("redis", "redis is away")
    assert repeated.error("other", "something else")
    now[0] = 61.0
    assert repeated.info("redis", "redis is away")
    assert heard.lines == [
        ("redis is away", {"error": "refused"}),
        ("something else", {}),
        ("redis is away", {"repeated": 2}),
    ]


def test_the_table_of_keys_is_bounded() -> None:
    """Keys that come from peers cannot fill the memory."""
    repeated = Repeated(Heard(), clock=lambda: 0.0)
    for number in range(MAX_KEYS + 10):
        assert repeated.warning(str(number), "x")
    assert not repeated.warning(str(MAX_KEYS + 9), "x")
    assert repeated.warning("0", "x")


def test_counters_count_by_reason() -> None:
    """A reason that was never seen before needs no preparation."""
    counters = Counters()
    counters.deliveries += 3
    counters.refused["too_many"] += 1
    counters.closed[1013] += 1
    assert (counters.deliveries, counters.refused["too_many"], counters.closed[1013]) == (3, 1, 1)
