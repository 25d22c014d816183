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


def test_the_security_guide_names_real_tests_and_settings() -> None:
    """What docs/security.md refers to is there: tests, files, headings and settings."""
    guide = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:tests|conf)/[^`]+)`", guide) + re.findall(r"\]\(([^)#]+)\)", guide):
        assert (ROOT / path).exists() or (ROOT / "docs" / path).exists(), path
    headings = {
        re.sub(r"[^a-z ]", "", line[3:].lower()).replace(" ", "-") for line in guide.splitlines() if line[:3] == "## "
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", guide)) <= headings
    sections = {field.name: field.type for field in attrs.fields(Config)}
    named = [(section, key) for section, key in re.findall(r"`([a-z]+)\.([a-z_]+)`", guide) if section in sections]
    assert named
    for section, key in named:
        assert key in {field.name for field in attrs.fields(sections[section])}, f"{section}.{key}"  # type: ignore[arg-type]
