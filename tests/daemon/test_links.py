"""The three links together."""

import socket

import pytest
import trio
import trio.testing
from redis.exceptions import ReadOnlyError

from broker.daemon.links import FIRST_ATTEMPT, build_links
from broker.link.address import Address
from tests.conftest import Valkey


async def test_a_demoted_server_is_left_by_all(valkey: Valkey, nursery: trio.Nursery) -> None:
    """When a write finds the server a replica, the subscriptions move too: what is published goes to its successor."""
    links = build_links(Address.parse(valkey.url))
    await nursery.start(links.run)
    assert all(link.state.up for link in links.all)
    valkey.client.replicaof("127.0.0.1", "1")
    try:
        with pytest.raises(ReadOnlyError):
            await links.commands.call("SET", "k", "v")
        assert {link.state.error for link in links.all} == {"the server has become a read-only replica"}
    finally:
        valkey.client.replicaof("NO", "ONE")
    with trio.fail_after(5):
        for link in links.all:
            await link.wait_up()


async def test_a_mute_server_does_not_keep_the_door_closed(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A start waits a moment for the first attempts, not for three of them to time out one after another."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        links = build_links(Address.parse(f"redis://127.0.0.1:{mute.getsockname()[1]}"))
        await nursery.start(links.run)
        assert trio.current_time() <= FIRST_ATTEMPT
        assert not any(link.state.up for link in links.all)
        nursery.cancel_scope.cancel()
