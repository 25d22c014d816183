"""A slice of the fuzzing: `make fuzz` gives a million inputs."""

import pytest

from tests.fuzz.campaign import campaign
from tests.fuzz.target import Target
from tests.fuzz.targets import ALL


@pytest.mark.parametrize("target", ALL, ids=lambda target: target.name)
def test_nothing_falls_over(target: Target) -> None:
    """Bytes made from good ones by a seed do nothing to a reader that must not be."""
    report = campaign(target, round(1500 * target.share) + 100, seed=7)
    assert [(finding.data, finding.what) for finding in report.findings] == []
    assert report.outcomes > 5
