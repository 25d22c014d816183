"""The seam between a channel's kept events and its live ones."""

from collections.abc import Callable, Iterator

import orjson

from broker.events.roster import Subscriber
from protocol.offsets import Offset, parse_offset


class CatchUp:
    """Stands in a channel's subscribers in place of an outbox, from before its history is read until after the seam.

    At first it holds back what the channel delivers. Once the history has been sent it passes on what is newer: what
    was read of the history may still be on its way here. With the first newer event the seam is closed.

    Attributes:
        window: 0, it takes plain frames: it must read them.
        raw: None, for the same reason.
        overflowed: more than `limit` bytes came while it held them back, and were not kept.
    """

    window = 0
    raw = None

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: list[bytes] = []
        self._size = 0
        self._last: Offset | None = None
        self._outbox: Subscriber | None = None
        self._close_seam: Callable[[], None] | None = None
        self.overflowed = False

    def release(self, last: str, outbox: Subscriber, close_seam: Callable[[], None]) -> list[bytes]:
        """Return the frames held whose event came after offset `last`, and pass on to `outbox` from now on.

        Args:
            last: the newest offset that the client has; all events are newer than "".
            outbox: takes what comes from now on.
            close_seam: called with the first newer event; has the channel deliver to the outbox itself.
        """
        self._last = parse_offset(last) if last else None
        self._outbox, self._close_seam = outbox, close_seam
        held, self._held = self._held, []
        return [frame for data in held for frame, _offset in self._newer(data)]

    def write(self, data: bytes) -> int:
        """Keep frames for later, or pass on those that are newer; returns 0 when there is no room for them."""
        if self._outbox is not None:
            self._pass_on(data, self._outbox)
            return len(data)
        self._size += len(data)
        if self._size > self._limit:
            self.overflowed = True
            return 0
        self._held.append(data)
        return len(data)

    def rest(self, data: bytes, taken: int) -> bool:
        """Return that what was not taken is lost."""
        return False

    def _pass_on(self, data: bytes, outbox: Subscriber) -> None:
        newer = self._newer(data)
        if not newer:
            return
        # Only here may the channel be told: a fan-out that has paused has this catch-up on its list, not the outbox.
        if self._close_seam is not None and (self._last is None or any(offset is not None for _, offset in newer)):
            self._close_seam()
            self._close_seam = None
        joined = b"".join([frame for frame, _offset in newer])
        try:
            taken = outbox.write(joined)
        except BlockingIOError:
            taken = 0
        except OSError:
            taken = -1
        if taken != len(joined):
            outbox.rest(joined, taken)

    def _newer(self, data: bytes) -> list[tuple[bytes, Offset | None]]:
        """Return the frames that the client does not have, with their offsets; what has none is always new."""
        offsets = [(frame, _offset_of(payload)) for frame, payload in split_frames(data)]
        return [
            (frame, offset) for frame, offset in offsets if self._last is None or offset is None or offset > self._last
        ]


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
    return parse_offset(orjson.loads(payload).get("offset"))
