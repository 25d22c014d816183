"""io_uring, where the kernel lets us."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

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


@contextlib.contextmanager
def without(ring: Ring) -> Iterator[None]:
    """Have every system call on a ring fail, and do nothing, for a while."""
    kept = os.dup(ring._descriptor)
    with Path(os.devnull).open("rb") as no_ring:
        os.dup2(no_ring.fileno(), ring._descriptor, inheritable=False)
    try:
        yield
    finally:
        os.dup2(kept, ring._descriptor, inheritable=False)
        os.close(kept)
