"""Frames as a client sends them, right and wrong."""

import itertools

import attrs

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10
MASK = b"\x11\x22\x33\x44"


@attrs.frozen
class Frame:
    """One frame of a client."""

    opcode: int
    payload: bytes = b""
    fin: bool = True

    @property
    def raw(self) -> bytes:
        """Its bytes, masked."""
        masked = bytes(byte ^ key for byte, key in zip(self.payload, itertools.cycle(MASK), strict=False))
        return header(self.opcode | (0x80 if self.fin else 0), len(self.payload)) + MASK + masked


def header(first: int, length: int, mask: int = 0x80) -> bytes:
    """The first bytes of a frame, without the mask itself."""
    if length < 126:
        return bytes((first, mask | length))
    if length < 65536:
        return bytes((first, mask | 126)) + length.to_bytes(2, "big")
    return bytes((first, mask | 127)) + length.to_bytes(8, "big")
