"""Events for the clients that agreed on compression: compressed once for all who share a window (RFC 7692)."""

import time

import trio

from broker.events.catchup import split_frames
from broker.observe.counters import Counters
from broker.wire.turn import Turn
from protocol.deflate import COMPRESSED_TEXT, compressed_frame

__all__ = ["WORTH_BYTES", "Packer"]

WORTH_BYTES = 256
"""Shorter events go as they are: compressing them saves next to nothing."""

LONG_BYTES = 262144
"""Longer ones would hold the loop for more than two milliseconds, and are compressed in a thread."""


class Packer:
    """Compresses what a fan-out delivers, and counts what it costs and saves."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    async def pack(self, data: bytes, window: int, turn: Turn) -> bytes:
        """Return joined frames in their compressed form; a frame that would not become shorter stays as it is.

        Args:
            data: plain frames, as everybody else gets them.
            window: what the clients have agreed on.
            turn: is ended when the time is up.
        """
        packed = []
        for frame, payload in split_frames(data):
            packed.append(await self._pack_one(frame, payload, window))
            if turn.is_long():
                await turn.end()
        return b"".join(packed)

    async def _pack_one(self, frame: bytes, payload: memoryview, window: int) -> bytes:
        if len(payload) < WORTH_BYTES:
            return frame
        began = time.perf_counter()
        if len(payload) > LONG_BYTES:
            packed = await trio.to_thread.run_sync(compressed_frame, COMPRESSED_TEXT, payload, window)
        else:
            packed = compressed_frame(COMPRESSED_TEXT, payload, window)
        counters = self._counters
        counters.compression_seconds += time.perf_counter() - began
        if len(packed) >= len(frame):
            return frame
        counters.publications_compressed += 1
        counters.compressed_from_bytes += len(frame)
        counters.compressed_to_bytes += len(packed)
        return packed
