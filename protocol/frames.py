"""Frames that the server sends (RFC 6455 section 5.2), beside the scanner of those that it receives.

A server's frames are not masked, and ours are not fragmented: the same bytes serve every client.
"""

from struct import Struct
from typing import Final

from protocol.scanner import FrameScanner

__all__ = [
    "MAX_CONTROL_PAYLOAD",
    "FrameScanner",
    "binary_frame",
    "close_frame",
    "data_frame",
    "ping_frame",
    "text_frame",
]

MAX_CONTROL_PAYLOAD: Final = 125
"""Bytes in a close, ping or pong (section 5.5)."""

_FIN_TEXT: Final = 0x81
_FIN_BINARY: Final = 0x82
_FIN_CLOSE: Final = 0x88
_FIN_PING: Final = 0x89

_SHORT_TEXT: Final = tuple(bytes((_FIN_TEXT, length)) for length in range(126))
_medium_header: Final = Struct("!BBH").pack
_long_header: Final = Struct("!BBQ").pack


def text_frame(payload: bytes) -> bytes:
    """One complete text message. ``payload`` must be UTF-8, which is not checked here."""
    length = len(payload)
    if length < 126:
        return _SHORT_TEXT[length] + payload
    if length < 65536:
        return _medium_header(_FIN_TEXT, 126, length) + payload
    return _long_header(_FIN_TEXT, 127, length) + payload


def binary_frame(payload: bytes) -> bytes:
    """One complete binary message."""
    return data_frame(_FIN_BINARY, payload)


def data_frame(first: int, payload: bytes) -> bytes:
    """One unmasked frame whose first byte (FIN, reserved bits, opcode) is ``first``."""
    length = len(payload)
    if length < 126:
        return bytes((first, length)) + payload
    if length < 65536:
        return _medium_header(first, 126, length) + payload
    return _long_header(first, 127, length) + payload


def close_frame(code: int, reason: str = "") -> bytes:
    """A close frame. A reason longer than 123 bytes of UTF-8 is cut at a character.

    Raises ValueError for a code that no frame may carry (section 7.4: 1004-1006, 1015 and what is outside 1000-4999).
    """
    if not 1000 <= code <= 4999 or code in _NEVER_SENT:
        raise ValueError(f"close code {code} must not be sent")
    text = reason.encode("utf-8", "replace")
    if len(text) > MAX_CONTROL_PAYLOAD - 2:
        text = text[: MAX_CONTROL_PAYLOAD - 2].decode("utf-8", "ignore").encode()
    return bytes((_FIN_CLOSE, len(text) + 2)) + code.to_bytes(2, "big") + text


def ping_frame(payload: bytes = b"") -> bytes:
    """A ping. Raises ValueError when the payload is longer than 125 bytes."""
    if len(payload) > MAX_CONTROL_PAYLOAD:
        raise ValueError(f"a control frame carries at most {MAX_CONTROL_PAYLOAD} bytes, not {len(payload)}")
    return bytes((_FIN_PING, len(payload))) + payload


_NEVER_SENT: Final = frozenset({1004, 1005, 1006, 1015})
