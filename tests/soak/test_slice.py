"""A few seconds of the soak, with few of everything; `make soak` is the long one."""

import attrs
import pytest

from tests.soak.judge import GROWTH_KIB, LAG_MS, SPREAD, judge
from tests.soak.plan import Plan
from tests.soak.run import soak
from tests.soak.sampling import Sample

SMALL = Plan(
    seconds=6, sample_every=1, viewers=24, channels=6, orgs=2, agents_per_org=3, workflows=5,
    publications_per_second=60, changes_per_second=10, churn_per_second=4, guests_per_second=4,
    agent_churn_per_second=2, agent_ping_every=2,
)  # fmt: skip

FLAT = Sample(
    seconds=0.0, rss_kib=60_000, descriptors=400, threads=1, cpu_percent=5.0, runqueue_percent=0.0,
    lag_p50_ms=0.5, lag_p99_ms=LAG_MS, lag_mean_ms=0.5, viewers=300, agents=60, subscriptions=300, deliveries=3000.0,
    pending_bytes=0,
)  # fmt: skip


@pytest.mark.timeout(120)
async def test_nobody_misses_anything() -> None:
    """Viewers and agents come and go under a steady load, know all there is in the end, and the broker ends well."""
    said: list[Sample] = []
    outcome = await soak(SMALL, said.append, seed=3)
    assert outcome.problems == []
    assert len(said) == SMALL.seconds
    assert outcome.metrics["signalbox_crashes_total"] == 0
    assert outcome.ledger.counts["viewers closed"] > 0, outcome.ledger.counts


def test_flat_is_flat() -> None:
    """What stays within the bounds is not complained of."""
    assert judge([FLAT] * 30 + [attrs.evolve(FLAT, rss_kib=60_000 + GROWTH_KIB, descriptors=400 + SPREAD)] * 6) == []


@pytest.mark.parametrize(
    ("late", "complaint"),
    [
        (attrs.evolve(FLAT, rss_kib=60_001 + GROWTH_KIB), "memory grew from 60000 to 62049 KiB"),
        (attrs.evolve(FLAT, descriptors=401 + SPREAD), "descriptors went from 400 to 407"),
        (attrs.evolve(FLAT, viewers=299 - SPREAD), "viewers went from 300 to 293"),
        (attrs.evolve(FLAT, agents=59 - SPREAD), "agents went from 60 to 53"),
        (attrs.evolve(FLAT, agents=61 + SPREAD), "agents went from 60 to 67"),
    ],
)
def test_growth_is_found(late: Sample, complaint: str) -> None:
    """What is beyond a bound in most of the last sixth is said, though single samples be as before."""
    assert judge([FLAT] * 30 + [late] * 6) == [complaint]
    assert judge([FLAT] * 31 + [late] * 5) == [complaint]


@pytest.mark.parametrize("kib", [0, 10 * GROWTH_KIB])
def test_single_samples_are_no_growth(kib: int) -> None:
    """What is out of line for a moment, early or late, is not complained of."""
    odd = attrs.evolve(FLAT, rss_kib=kib)
    assert judge([FLAT] * 7 + [odd] + [FLAT] * 24 + [odd] + [FLAT] * 3) == []


@pytest.mark.parametrize(("lag", "said"), [(LAG_MS + 1, "26"), (-1.0, "-1")])
def test_lag_is_found(lag: float, said: str) -> None:
    """A loop that is held most of the time is said, also for longer than any bucket measures."""
    held = attrs.evolve(FLAT, lag_p99_ms=lag)
    complaint = f"the loop's lag was {said} ms at the 99th percentile"
    assert judge([held] * 36) == judge([FLAT] * 17 + [held] * 19) == [complaint]
    assert judge([FLAT] * 19 + [held] * 17) == []
