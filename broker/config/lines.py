"""Where a key stands in a TOML file. tomllib tells no positions, and a problem without a line is hard to find."""

import re

_TABLE = re.compile(r"^\s*\[([^\[\]]+)\]\s*(?:#.*)?$")
_KEY = re.compile(r"""^\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")


def key_lines(text: str) -> dict[str, int]:
    """Return the line, counted from 1, of each dotted key and table in `text`; the first one wins.

    It knows bare and quoted keys, dotted keys and tables. A line inside a multi-line string that looks like a key is
    taken for one, which costs no more than a wrong line number in a complaint.
    """
    found: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if match := _TABLE.match(line):
            table = _normal(match[1])
            found.setdefault(table, number)
        elif match := _KEY.match(line):
            key = _normal(match[1])
            found.setdefault(f"{table}.{key}" if table else key, number)
    return found


def _normal(dotted: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in dotted.split("."))
