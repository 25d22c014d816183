"""Why a connection could not be made, in words."""

import socket

import pytest
import trio

from broker.link.address import Address
from broker.link.link import Link
from broker.link.reason import reason


async def test_nobody_listens(nursery: trio.Nursery) -> None:
    """A link to a port on which nobody listens says so, whatever the library has wrapped around it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    link = Link(Address.parse(f"redis://127.0.0.1:{port}"), "test")
    await nursery.start(link.run)
    assert link.state.error == "Connection refused"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(111, "Error connecting to ('127.0.0.1', 1): Connection refused"), "Connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (
            ExceptionGroup("all", [OSError(111, "a"), OSError(113, "b"), OSError(111, "c")]),
            "Connection refused, No route to host",
        ),
        (trio.BrokenResourceError(), "BrokenResourceError"),
        (ValueError("odd"), "odd"),
    ],
)
def test_causes(error: Exception, said: str) -> None:
    """What is wrapped is unwrapped, different causes are joined, and what says nothing is named."""
    outer = OSError("all attempts to connect to 127.0.0.1:1 failed")
    outer.__cause__ = error
    assert reason(error) == reason(outer) == said
