"""The seam between a channel's kept events and its live ones."""

from collections.abc import Iterator

import orjson

Offset = tuple[int, int]


class CatchUp:
    """Holds back what a channel delivers while its history is being read, then gives what the history had not.

    It stands in a channel's subscribers in place of the outbox, and takes the same frames.

    Attributes:
        overflowed: more than `limit` bytes came meanwhile, and were not kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: list[bytes] = []
        self._size = 0
        self.overflowed = False

    def write(self, data: bytes) -> int:
        """Keep frames for later; returns 0 when there is no room for them."""
        self._size += len(data)
        if self._size > self._limit:
            self.overflowed = True
            return 0
        self._held.append(data)
        return len(data)

    def rest(self, data: bytes, taken: int) -> bool:
        """Return that what was not taken is lost."""
        return False

    def after(self, last: str) -> list[bytes]:
        """Return the frames held whose event came after offset `last`, each by itself; all of them for ""."""
        limit = parse_offset(last) if last else None
        return [
            frame
            for data in self._held
            for frame, payload in split_frames(data)
            if limit is None or (offset := _offset_of(payload)) is None or offset > limit
        ]


def parse_offset(text: str) -> Offset | None:
    """Return an offset "<ms>-<n>" as numbers that compare, None if it is not one."""
    first, dash, second = text.partition("-")
    if not dash or not (first.isdecimal() and second.isdecimal() and first.isascii() and second.isascii()):
        return None
    return int(first), int(second)


def split_frames(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield (frame, payload) for each of the unmasked frames that are joined in `data` (RFC 6455 section 5.2)."""
    view, at = memoryview(data), 0
    while at < len(data):
        length, head = data[at + 1], 2
        if length == 126:
            length, head = int.from_bytes(data[at + 2 : at + 4]), 4
        elif length == 127:
            length, head = int.from_bytes(data[at + 2 : at + 10]), 10
        end = at + head + length
        yield data[at:end], view[at + head : end]
        at = end


def _offset_of(payload: memoryview) -> Offset | None:
    offset = orjson.loads(payload).get("offset")
    return parse_offset(offset) if isinstance(offset, str) else None
