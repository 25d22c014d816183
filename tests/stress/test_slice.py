"""A small stress run; `make stress` is the big one."""

import pytest

from tests.stress.plan import Plan
from tests.stress.run import stress

SMALL = Plan(
    browsers=60, visitors=20, agents=6, late=3, crowded=False, browser_keys=5, channels=12, hostile=2, slow_heads=0,
    half_open=0, wanderings=5, ping=60, patience=60, outage=0.1, drain=False, again=40,
)  # fmt: skip


@pytest.mark.timeout(180)
async def test_everything_at_once() -> None:
    """After a storm, abuse, a store that went away and a revoked key: nothing is left, nobody missed any."""
    said: list[str] = []
    outcome = await stress(SMALL, seed=7, say=said.append)
    assert outcome.ledger.complaints == [], "\n".join(said)
