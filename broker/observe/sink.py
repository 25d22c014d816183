"""Where log lines go: a stream that is written to only while it takes lines.

Whoever reads the log may stall (a terminal after ctrl-S, a pager, a log shipper, the journal under pressure). A
blocking write would then stop the whole broker, and a kill with it; a lost line is counted instead.
"""

import os
import select
from collections.abc import Callable
from typing import IO

CHUNK = 4096
"""Bytes that a pipe or socket that polls as writable takes without blocking (PIPE_BUF, pipe(7))."""


class Sink:
    """A text stream whose failures, and whose reader's pauses, are not ours to die of.

    Args:
        stream: usually stderr. One without a descriptor is simply written to.
        on_loss: makes the line that tells how many lines were lost, for when the stream takes lines again.

    Attributes:
        lost: how many lines were lost since that was told last.
    """

    def __init__(self, stream: IO[str], on_loss: Callable[[int], str]) -> None:
        self.lost = 0
        self._stream = stream
        self._on_loss = on_loss
        self._fd = _descriptor(stream)
        self._poll = select.poll()
        if self._fd is not None:
            self._poll.register(self._fd, select.POLLOUT)

    def write(self, text: str) -> None:
        """Write whole lines, or lose them."""
        if self.lost:
            text = self._on_loss(self.lost) + text
        if self._fd is None:
            self._write_through(text)
        elif self._write_ready(self._fd, text.encode(errors="replace")):
            self.lost = 0
        else:
            self.lost += 1

    def flush(self) -> None:
        """Nothing is kept back."""

    def _write_ready(self, fd: int, data: bytes) -> bool:
        """Write as much as the stream takes now; tell whether it took anything."""
        written = 0
        try:
            while written < len(data) and self._poll.poll(0):
                written += os.write(fd, data[written : written + CHUNK])
        except OSError:
            return True  # the reader has gone, and nobody misses a line
        return written > 0

    def _write_through(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            return


def _descriptor(stream: IO[str]) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None
