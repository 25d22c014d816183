"""io_uring, where the kernel lets us."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from broker.wire.ring import Ring


@contextlib.contextmanager
def open_ring(flags: int = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) -> Iterator[Ring]:
    """Return a ring; the test is skipped, aloud, where there can be none."""
    try:
        ring = Ring(flags)
    except OSError as error:
        pytest.skip(f"no io_uring here: {error.strerror}")
    try:
        yield ring
    finally:
        ring.close()
