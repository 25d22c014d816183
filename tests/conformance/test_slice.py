"""A slice of Autobahn's cases, a few from each group; `make conformance` runs all of them."""

import pytest

from tests.conformance.suite import Mode, run_mode

SLICE = (
    "1.1.4", "1.2.5", "2.2", "2.6", "2.10", "3.4", "4.1.3", "4.2.5", "5.6", "5.15",
    "6.1.2", "6.2.4", "6.3.1", "7.1.4", "7.3.4", "7.3.6", "7.5.1", "7.7.3", "7.9.4",
)  # fmt: skip

MODES = [
    Mode(
        "partial-writes",
        (*SLICE, "1.1.6", "1.2.7", "9.1.3", "9.4.5", "9.8.6", "10.1.1"),
        ("--write", "64", "--seed", "2"),
    ),
    Mode("every-byte", SLICE, ("--read", "1", "--write", "3", "--send-buffer", "1", "--seed", "3")),
]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_the_broker_conforms(mode: Mode) -> None:
    """Autobahn finds nothing that fails, however the kernel cuts what is read and written."""
    outcomes = run_mode(mode)
    assert len(outcomes) == len(mode.cases)
    assert [outcome for outcome in outcomes if not outcome.good] == []
