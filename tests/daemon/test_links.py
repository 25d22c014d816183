"""The three links together."""

import pytest
import trio
from redis.exceptions import ReadOnlyError

from broker.daemon.links import build_links
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
