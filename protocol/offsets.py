"""Offsets: the places of events in a channel's history, as Redis streams number their entries."""

import re
from typing import Final

Offset = tuple[int, int]
"""Milliseconds and a number; offsets compare as these do."""

_OFFSET: Final = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
_MAX_PART: Final = 2**64 - 1


def parse_offset(text: object) -> Offset | None:
    """Read ``<ms>-<n>``, both unsigned 64-bit integers; None for anything else."""
    match = _OFFSET.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    ms, number = int(match[1]), int(match[2])
    return (ms, number) if max(ms, number) <= _MAX_PART else None
