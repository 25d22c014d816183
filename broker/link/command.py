"""Packing commands for the wire (RESP: an array of bulk strings)."""

from __future__ import annotations

import hiredis

Arg = bytes | str | int | float


def pack(*args: Arg) -> bytes:
    """Encode one command; strings become UTF-8. Raises TypeError for an argument of another type."""
    packed: bytes = hiredis.pack_command(args)  # type: ignore[arg-type]  # its stub admits one argument only
    return packed
