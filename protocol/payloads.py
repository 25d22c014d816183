"""What is in a client's frames: payloads, which are masked (RFC 6455 section 5.3), and the simplest of messages."""

from typing import Final

__all__ = ["lone_text", "unmask"]

_WHOLE_TEXT: Final = 0x81
_LENGTH: Final = 0x7F
_IN_16_BITS: Final = 126


def unmask(payload: bytes, mask: bytes) -> bytes:
    """Return what a payload says; ``mask`` is the four bytes of its frame, from the one for its first byte on."""
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(size)


def lone_text(data: bytes) -> str | None:
    """Return the message if this is one text message in one frame and nothing besides, as most of a client's reads are.

    ``data`` begins with a frame and has passed a ``FrameScanner``. None is everything else: a part of a message, more
    than one frame, any other frame, 64 KiB or more, or text that is not UTF-8.
    """
    size = len(data)
    if size < 6 or data[0] != _WHOLE_TEXT:
        return None
    length, at = data[1] & _LENGTH, 2
    if length == _IN_16_BITS:
        length, at = int.from_bytes(data[2:4]), 4
    elif length > _IN_16_BITS:
        return None
    if at + 4 + length != size:
        return None
    try:
        return unmask(data[at + 4 :], data[at : at + 4]).decode()
    except UnicodeDecodeError:
        return None
