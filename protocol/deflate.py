"""permessage-deflate: what is agreed upon, and how messages are compressed (RFC 7692).

No context is taken over in either direction. So a message is compressed once and the same bytes serve every client
that agreed on the same window; and a connection that is idle has no compression state at all.
"""

import re
import zlib
from collections.abc import Iterable
from typing import Final

import attrs

from protocol.frames import data_frame

__all__ = ["COMPRESSED_BINARY", "COMPRESSED_TEXT", "Deflate", "agree_on", "compressed_frame", "deflate"]

COMPRESSED_TEXT: Final = 0xC1
COMPRESSED_BINARY: Final = 0xC2
"""First bytes of whole compressed messages: FIN, RSV1, opcode."""

MAX_WINDOW: Final = 15
MIN_WINDOW: Final = 9  # zlib makes no raw streams with a window of 2^8

TAIL: Final = b"\x00\x00\xff\xff"
"""What ends every compressed message, and is left out on the wire (section 7.2.1)."""

_BITS: Final = re.compile(r"[89]|1[0-5]")

_SMALL: Final = 16 * 1024
_THOROUGH, _QUICK = 6, 1


@attrs.frozen
class Deflate:
    """What both sides have agreed on.

    ``window`` is the base-2 logarithm of how far back our compressed messages refer, 9 to 15.
    """

    window: int = MAX_WINDOW

    @property
    def answer(self) -> str:
        """Our side of the agreement, for Sec-WebSocket-Extensions (section 7.1)."""
        bits = "" if self.window == MAX_WINDOW else f"; server_max_window_bits={self.window}"
        return f"permessage-deflate; server_no_context_takeover; client_no_context_takeover{bits}"


def agree_on(offers: Iterable[str]) -> Deflate | None:
    """Return an agreement on the first of a client's offers that can be met, None when there is none (section 7.1).

    An offer with a parameter that is unknown, repeated or malformed is declined, and so is one with a window of 2^8.
    """
    return next((agreed for offer in offers if (agreed := _agree(offer)) is not None), None)


def deflate(payload: bytes | memoryview, window: int) -> bytes:
    """Compress a message by itself (section 7.2.1).

    Small ones, of which there are many, are compressed well and with little memory to prepare; large ones quickly:
    about 9 ms for 1 MiB.
    """
    if len(payload) <= _SMALL:
        packer = zlib.compressobj(_THOROUGH, zlib.DEFLATED, -min(window, 13), 5)
    else:
        packer = zlib.compressobj(_QUICK, zlib.DEFLATED, -window, 8)
    return (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH))[: -len(TAIL)]


def compressed_frame(first: int, payload: bytes | memoryview, window: int) -> bytes:
    """One complete compressed message; ``first`` is ``COMPRESSED_TEXT`` or ``COMPRESSED_BINARY``."""
    return data_frame(first, deflate(payload, window))


def _agree(offer: str) -> Deflate | None:
    name, *parameters = (part.strip(" \t") for part in offer.split(";"))
    if name != "permessage-deflate":
        return None
    window, seen = MAX_WINDOW, set()
    for parameter in parameters:
        key, equals, value = (part.strip(" \t") for part in parameter.partition("="))
        if len(value) > 2 and value[0] == value[-1] == '"':
            value = value[1:-1]
        if key in seen:
            return None
        seen.add(key)
        match key:
            case "server_no_context_takeover" | "client_no_context_takeover" if not equals:
                pass
            case "client_max_window_bits" if not equals or _BITS.fullmatch(value):
                pass
            case "server_max_window_bits" if _BITS.fullmatch(value):
                window = int(value)
            case _:
                return None
    return Deflate(window) if window >= MIN_WINDOW else None
