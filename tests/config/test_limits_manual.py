"""docs/limits.md cannot drift from the code: its settings, defaults, metrics and tests are all real."""

import re
from pathlib import Path

import attrs
import pytest

from broker.config import Config, Limits

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs" / "limits.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| Threat")
]


def test_every_limit_is_documented() -> None:
    """Each key of `[limits]` has a row."""
    settings = {row[2].strip("`") for row in ROWS}
    assert {f"limits.{field.name}" for field in attrs.fields(Limits)} <= settings


@pytest.mark.parametrize("row", [row for row in ROWS if row[2] != "-"], ids=lambda row: row[2])
def test_the_default_is_right(row: list[str]) -> None:
    """The default in a row is that of its setting."""
    section, _, key = row[2].strip("`").partition(".")
    assert float(row[3]) == getattr(getattr(Config(), section), key)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1])
def test_the_tests_are_there(row: list[str]) -> None:
    """Each row names at least one test, and each test that is named exists."""
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", row[6])
    assert named
    for path, name in named:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), name


@pytest.mark.parametrize("row", [row for row in ROWS if row[5] != "-"], ids=lambda row: row[1])
def test_the_metrics_are_there(row: list[str]) -> None:
    """Each metric that is named is one that the metrics page has."""
    page = (ROOT / "broker" / "admin" / "metrics.py").read_text(encoding="utf-8")
    for name in re.findall(r"`([a-z_]+)(?:\{[^}]*\})?`", row[5]):
        assert f'"{name.removesuffix("_total")}"' in page, name
