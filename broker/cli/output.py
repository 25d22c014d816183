"""What commands print: aligned tables and sentences for people, one JSON object per line for programs."""

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

import click

_STATE_COLORS = {"Normal": "green", "Flagged": "yellow", "Tripped": "yellow", "Paused": "yellow", "Killed": "red"}


def print_json(record: dict[str, Any]) -> None:
    """Print one JSON object as one line on stdout, at once; in ASCII, which is JSON whatever stdout's encoding is."""
    click.echo(json.dumps(record))


def hint(text: str) -> None:
    """Say something helpful on stderr, out of the way of the output."""
    click.secho(text, err=True, dim=True)


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under a head, each column as wide as its widest cell; an empty cell is shown as a dash."""
    table = [[printable(cell) or "-" for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *table, strict=True)]
    click.secho(_line(head, widths), dim=True)
    for row in table:
        click.echo(_colored(_line(row, widths), row))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _colored(line: str, row: Sequence[str]) -> str:
    for cell in row:
        if cell in _STATE_COLORS:
            return line.replace(cell, click.style(cell, fg=_STATE_COLORS[cell]), 1)
    return line


def printable(text: str) -> str:
    """Return `text` with control characters escaped, so that data cannot steer the terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def moment(unix: float | None) -> str:
    """Return a time in unix seconds as local date and time, and nothing for None."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix)) if unix is not None else ""


def ago(unix: float | None, now: float) -> str:
    """Return how long ago a time in unix seconds was, in one unit: `12s ago`."""
    return f"{duration(max(0.0, now - unix))} ago" if unix is not None else ""


def duration(seconds: float) -> str:
    """Return a length of time in the largest unit of which it has two: `12s`, `3m`, `5h`, `90d`."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return `1 agent`, `2 agents`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
