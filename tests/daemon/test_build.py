"""What the composition root decides by itself."""

import resource
import socket

import pytest
import structlog

from broker.config import Config, Server
from broker.daemon.build import build, open_ring
from broker.daemon.links import build_links
from broker.link.address import Address
from broker.observe import Counters
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


@pytest.mark.parametrize("sockets", [0, 7])
async def test_the_fan_out_works_as_it_was_configured(sockets: int) -> None:
    """From how many sockets on io_uring is used is what the configuration says; 0 is never."""
    counters = Counters()
    links = build_links(Address.parse("redis://127.0.0.1:1"))
    with rings.open_ring():
        fan_out = build(Config(server=Server(io_uring_from=sockets)), links, counters).fan_out
    assert (fan_out.ring is not None, fan_out.ring_from) == (sockets > 0, sockets)
    if fan_out.ring is not None:
        fan_out.ring.close()


async def test_one_instrument_times_the_passes_of_the_loop() -> None:
    """The one that runs is the one that the door asks."""
    counters = Counters()
    links = build_links(Address.parse("redis://127.0.0.1:1"))
    broker = build(Config(server=Server(io_uring_from=0)), links, counters)
    assert broker.lag.run in broker.workers
    assert broker.door.state.services.passes is broker.lag
