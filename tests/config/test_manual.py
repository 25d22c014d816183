"""conf/signalbox.toml is a manual that cannot drift from the code."""

import re

import attrs
import pytest

from broker.config import Config, loads, manual

SECTION = re.compile(r"^\[(\w+)\]$")
DEFAULT = re.compile(r"^#(\w+) = ")


def documented() -> list[tuple[str, int]]:
    """Return each documented key with the number of its line."""
    found, section = [], ""
    for number, line in enumerate(manual().splitlines()):
        if match := SECTION.match(line):
            section = match[1]
        elif match := DEFAULT.match(line):
            found.append((f"{section}.{match[1]}", number))
    return found


def in_the_code() -> list[str]:
    """Return every key of the model, in its order."""
    return [
        f"{section.name}.{field.name}"
        for section in attrs.fields(Config)
        for field in attrs.fields(section.type)  # type: ignore[arg-type]
    ]


def test_the_manual_has_every_key_and_no_other() -> None:
    """A key is in the manual exactly if the code reads it."""
    assert sorted(key for key, _ in documented()) == sorted(in_the_code())


def test_the_manual_shows_the_real_defaults() -> None:
    """With every # taken away the manual means the same as an empty file, and as it stands too."""
    active = re.sub(r"^#(?=\w+ = )", "", manual(), flags=re.MULTILINE)
    assert loads(active) == Config() == loads(manual()) == loads("")


@pytest.mark.parametrize(("key", "number"), documented())
def test_every_key_is_explained(key: str, number: int) -> None:
    """Prose stands above each key, or above the one that it goes with."""
    lines = manual().splitlines()
    while DEFAULT.match(lines[number]):
        number -= 1
    assert lines[number].startswith("# "), key
