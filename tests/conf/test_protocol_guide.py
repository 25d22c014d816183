"""docs/protocol.md speaks of every message, every field and every close code that there is, and rightly."""

import re
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest

from broker.door.routes import ROUTES
from protocol import codec
from protocol.codes import CLOSINGS
from protocol.control import Workflow

GUIDE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
EVENTS, CONTROL = GUIDE.split("## The control socket")


@pytest.mark.parametrize(
    ("part", "table"),
    [
        (EVENTS, codec.EVENT_CLIENT),
        (EVENTS, codec.EVENT_SERVER),
        (CONTROL, codec.CONTROL_CLIENT),
        (CONTROL, codec.CONTROL_SERVER),
    ],
)
def test_messages_and_their_fields(part: str, table: Mapping[str, type]) -> None:
    """Each message has a line of its own, with all of its fields."""
    for tag, cls in table.items():
        lines = [line for line in part.splitlines() if line.startswith(f"| `{tag}` |")]
        assert lines, tag
        for field in attrs.fields(cls):
            assert any(f"`{field.name}`" in line for line in lines), f"{tag}: {field.name}"
    for field in attrs.fields(Workflow):
        assert f"`{field.name}`" in CONTROL


def test_close_codes() -> None:
    """Each close code is there, and what to do about it is what the table in the code says."""
    told = {
        int(code): advice == "yes"
        for codes, advice in re.findall(r"^\| ([0-9, ]+) \|.*\| (yes|no) \|$", GUIDE, re.MULTILINE)
        for code in codes.split(", ")
    }
    assert told == {int(code): closing.reconnect for code, closing in CLOSINGS.items()}


def test_paths() -> None:
    """Every path of the public port is there."""
    for route in ROUTES:
        path = "/" + "/".join(route.pattern)
        assert path in GUIDE, path
