"""What the composition root decides by itself."""

import resource
import socket

import structlog

from broker.daemon.build import open_ring
from tests.support import rings


def test_io_uring_is_used_where_it_can_be() -> None:
    """The log says that it is."""
    with rings.open_ring(), structlog.testing.capture_logs() as log:
        ring = open_ring(256)
    assert ring is not None
    assert ring.takes(b"x")
    assert [(line["event"], line["for_channels_from"]) for line in log] == [("io_uring", 256)]
    ring.close()


def test_io_uring_is_left_alone_where_it_is_not_wanted() -> None:
    """There is nothing to say, then."""
    with structlog.testing.capture_logs() as log:
        assert open_ring(0) is None
    assert log == []


def test_a_kernel_without_io_uring_is_no_obstacle() -> None:
    """The broker does without; one line says why."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as lowest:
        free = lowest.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))  # one of the ways in which a kernel refuses
    try:
        with structlog.testing.capture_logs() as log:
            assert open_ring(256) is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [(line["log_level"], line["why"]) for line in log] == [("info", "Too many open files")]
