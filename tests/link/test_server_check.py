"""Servers that are fit for the broker, and those that are not."""

from __future__ import annotations

import pytest
import trio

from broker.link.address import Address
from broker.link.errors import StartupError
from broker.link.link import Link
from broker.link.server_check import check_server
from tests.link.servers import Server, debian_redis, free_port

DURABLE = ("--appendonly", "yes")


async def check(server: Server, nursery: trio.Nursery, address: Address | None = None) -> tuple[str, ...]:
    """Check through a link of this address; return the warnings."""
    link = Link(address or server.address, "test")
    await nursery.start(link.run)
    return (await check_server(link)).warnings


async def test_good_server(nursery: trio.Nursery) -> None:
    """A Valkey that keeps everything is accepted without a word."""
    with Server(*DURABLE) as server:
        link = Link(server.address, "test")
        await nursery.start(link.run)
        report = await check_server(link)
    assert report.product == "valkey"
    assert report.version.split(".")[0].isdigit()
    assert report.warnings == ()


async def test_redis(nursery: trio.Nursery) -> None:
    """Debian's Redis is new enough."""
    with Server(*DURABLE, program=debian_redis()) as server:
        assert await check(server, nursery) == ()


async def test_no_append_only_file(server: Server, nursery: trio.Nursery) -> None:
    """Without an append-only file there is a warning, unless nothing is expected to last."""
    (warning,) = await check(server, nursery)
    assert "appendonly no" in warning
    link = Link(server.address, "test")
    await nursery.start(link.run)
    assert (await check_server(link, durable=False)).warnings == ()


async def test_evicting_server(nursery: trio.Nursery) -> None:
    """A server that may evict keys is refused, with the remedy."""
    with (
        Server("--maxmemory-policy", "allkeys-lru") as server,
        pytest.raises(StartupError, match=r"allkeys-lru.*set it to noeviction"),
    ):
        await check(server, nursery)


@pytest.mark.parametrize("command", ["-config", "-info"])
async def test_either_way_of_asking_will_do(nursery: trio.Nursery, command: str) -> None:
    """CONFIG or INFO may be forbidden: the other one tells as well."""
    with Server("--maxmemory-policy", "volatile-lru") as server:
        server.command("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", command)
        with pytest.raises(StartupError, match="volatile-lru"):
            await check(server, nursery, Address(path=str(server.path), username="app", password="pw"))


async def test_server_that_does_not_tell(server: Server, nursery: trio.Nursery) -> None:
    """A user who may ask neither way is warned about what could not be checked."""
    server.command("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-config", "-info")
    warnings = await check(server, nursery, Address(path=str(server.path), username="app", password="pw"))
    assert len(warnings) == 2
    assert "maxmemory-policy" in warnings[0]
    assert "append-only" in warnings[1]


async def test_cluster_node(nursery: trio.Nursery) -> None:
    """A node of a Cluster is refused by a sentence, instead of by an error for every other key."""
    cluster = ("--cluster-enabled", "yes", "--port", str(free_port()), "--cluster-port", str(free_port()))
    with Server(*cluster) as server, pytest.raises(StartupError, match="cluster mode"):
        await check(server, nursery)


@pytest.mark.parametrize(
    ("product", "version", "good"),
    [("redis", "6.0.16", False), ("redis", "6.2.0", True), ("redis", "7.4", True), ("valkey", "1.0.0", True)],
)
async def test_versions(product: str, version: str, good: bool, nursery: trio.Nursery) -> None:
    """Redis before 6.2 is refused by name; any Valkey will do."""
    hello = b"%%2\r\n$6\r\nserver\r\n+%b\r\n$7\r\nversion\r\n+%b\r\n" % (product.encode(), version.encode())

    async def talk(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(hello)
        while await stream.receive_some():
            await stream.send_all(b"+PONG\r\n")

    listeners = await nursery.start(trio.serve_tcp, talk, 0)
    link = Link(Address(host="127.0.0.1", port=listeners[0].socket.getsockname()[1]), "test")
    await nursery.start(link.run)
    if good:
        assert (await check_server(link)).version == version
    else:
        with pytest.raises(StartupError, match=r"Redis 6\.0\.16: 6\.2 or newer"):
            await check_server(link)
