"""A slice of what `make faults` does, small enough for every run of the tests."""

from tests.faults.plan import draw
from tests.faults.run import run

SEED = 2489


def test_a_seed_says_it_all() -> None:
    """The same seed breaks the same things at the same times."""
    assert list(draw(7, 30)) == list(draw(7, 30))
    assert list(draw(7, 30)) != list(draw(8, 30))


async def test_nothing_is_lost() -> None:
    """A few seconds in which the store and a broker die and messages get lost lose no decision."""
    result = await run(SEED, seconds=2.5, pause=0.05)
    assert result.violations == [], (result.folder, result.figures)
