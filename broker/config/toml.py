"""TOML as tomllib reads it, without what its reader chokes on."""

import re
import tomllib
from typing import Any

_ENDLESS = re.compile(r"[0-9_]{4301,}")
"""Digits that Python makes no number of, for the time that this takes (sys.get_int_max_str_digits)."""


def read_toml(text: str) -> dict[str, Any]:
    """Return what `text` means; ValueError says what is wrong with it, and in which line."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError:
        raise ValueError("its arrays or tables are nested too deeply") from None
    except ValueError:
        found = _ENDLESS.search(text)
        line = f" (at line {text.count(chr(10), 0, found.start()) + 1})" if found else ""
        raise ValueError(f"a number has too many digits{line}") from None
