"""Calls on one connection: pipelining, errors, cancellation, bounds."""

from __future__ import annotations

import pytest
import redis.exceptions
import trio

from broker.link.address import Address
from broker.link.errors import LinkDown
from broker.link.link import Link
from tests.link.servers import Server, eventually


async def test_call(server: Server, nursery: trio.Nursery) -> None:
    """Replies come in RESP3's shapes, strings as bytes, and arguments are binary-safe."""
    link = Link(server.address, "test")
    await nursery.start(link.run)
    assert link.state.up
    assert await link.call("SET", "k", b"\x00\xff\r\n") == b"OK"
    assert await link.call("GET", "k") == b"\x00\xff\r\n"
    assert await link.call("GET", "nothing") is None
    assert await link.call("HSET", "h", "field", 1) == 1
    assert await link.call("HGETALL", "h") == {b"field": b"1"}
    assert await link.call("EVAL", "return {1, 'two', {3}}", 0) == [1, b"two", [3]]
    assert await link.call("CLIENT", "GETNAME") == b"test"


async def test_database_is_selected(server: Server, nursery: trio.Nursery) -> None:
    """The db of the URL is the one that is used."""
    link = Link(Address(path=str(server.path), db=3), "test")
    await nursery.start(link.run)
    await link.call("SET", "k", "v")
    assert server.client.get("k") is None
    assert b"db=3" in str(await link.call("CLIENT", "INFO")).encode()


async def test_error_replies(server: Server, nursery: trio.Nursery) -> None:
    """An error reply raises redis-py's exception for it, and the link goes on."""
    link = Link(server.address, "test")
    await nursery.start(link.run)
    with pytest.raises(redis.exceptions.ResponseError, match="unknown command"):
        await link.call("NONSENSE")
    with pytest.raises(redis.exceptions.NoScriptError):
        await link.call("EVALSHA", "0" * 40, 0)
    with pytest.raises(TypeError):
        await link.call("SET", "k", None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="SubscriptionLink"):
        await link.call("subscribe", "c")
    assert await link.call("ECHO", "still here") == b"still here"


async def test_pipelining_keeps_order(server: Server, nursery: trio.Nursery) -> None:
    """Calls of many tasks share the connection, and each gets its own reply."""
    link = Link(server.address, "test")
    await nursery.start(link.run)
    replies: dict[int, object] = {}

    async def echo(number: int) -> None:
        replies[number] = await link.call("ECHO", number)

    async with trio.open_nursery() as callers:
        for number in range(2000):
            callers.start_soon(echo, number)
    assert replies == {number: str(number).encode() for number in range(2000)}


async def test_cancelled_call_keeps_the_link_in_step(server: Server, nursery: trio.Nursery) -> None:
    """The reply of a cancelled call is swallowed, and the calls behind it get theirs."""
    link = Link(server.address, "test")
    await nursery.start(link.run)
    server.stall()
    replies: list[object] = []

    async def echo(text: str) -> None:
        replies.append(await link.call("ECHO", text))

    async with trio.open_nursery() as callers:
        with trio.CancelScope() as given_up:
            async with trio.open_nursery() as doomed:
                doomed.start_soon(echo, "cancelled")
                await eventually(lambda: link.outstanding == 1)
                given_up.cancel()
        callers.start_soon(echo, "kept")
        await eventually(lambda: link.outstanding == 2)
        server.resume()
    assert replies == [b"kept"]
    assert await link.call("ECHO", "after") == b"after"


async def test_big_values(server: Server, nursery: trio.Nursery) -> None:
    """Commands and replies of many reads pass whole, while others are under way."""
    link = Link(server.address, "test")
    await nursery.start(link.run)
    big = bytes(range(256)) * 40_000
    assert await link.call("SET", "big", big) == b"OK"
    async with trio.open_nursery() as callers:
        for _ in range(20):
            callers.start_soon(link.call, "PING")
        assert await link.call("GET", "big") == big


async def test_bound_of_outstanding_calls(server: Server, nursery: trio.Nursery) -> None:
    """At `max_calls` the next call waits and is not sent; a cancelled call goes on counting until it is answered."""
    link = Link(server.address, "test", max_calls=3)
    await nursery.start(link.run)
    server.stall()
    replies: list[object] = []

    async def echo(number: int) -> None:
        replies.append(await link.call("ECHO", number))

    async with trio.open_nursery() as callers:
        with trio.CancelScope() as given_up:
            async with trio.open_nursery() as doomed:
                doomed.start_soon(echo, 0)
                await eventually(lambda: link.outstanding == 1)
                given_up.cancel()
        callers.start_soon(echo, 1)
        callers.start_soon(echo, 2)
        await eventually(lambda: link.outstanding == 3)
        callers.start_soon(echo, 3)
        callers.start_soon(echo, 4)
        await trio.testing.wait_all_tasks_blocked()
        assert link.outstanding == 3
        server.resume()
    assert sorted(map(str, replies)) == ["b'1'", "b'2'", "b'3'", "b'4'"]


async def test_bound_of_unsent_bytes(server: Server, nursery: trio.Nursery) -> None:
    """Past `max_unsent` a call waits, and one that is bigger than the bound alone still passes."""
    link = Link(server.address, "test", max_unsent=100_000)
    await nursery.start(link.run)
    server.stall()
    replies: list[object] = []

    async def put(number: int, size: int) -> None:
        replies.append(await link.call("SET", number, b"x" * size))

    async with trio.open_nursery() as callers:
        callers.start_soon(put, 0, 5_000_000)
        await eventually(lambda: link.outstanding == 1)
        callers.start_soon(put, 1, 10)
        callers.start_soon(put, 2, 10)
        await trio.testing.wait_all_tasks_blocked()
        assert link.outstanding == 1
        server.resume()
    assert replies == [b"OK"] * 3


async def test_waiting_for_room_ends_with_the_link(server: Server, nursery: trio.Nursery) -> None:
    """Whoever waits at the bound is told when the link goes down."""
    link = Link(server.address, "test", max_calls=1)
    await nursery.start(link.run)
    server.stall()
    told = 0

    async def ping() -> None:
        nonlocal told
        with pytest.raises(LinkDown):
            await link.call("PING")
        told += 1

    async with trio.open_nursery() as callers:
        for _ in range(5):
            callers.start_soon(ping)
        await eventually(lambda: link.outstanding == 1)
        server.kill()
    assert told == 5


async def test_stopped_link(server: Server) -> None:
    """When `run` is cancelled, calls under way raise LinkDown, and so do later ones."""
    downs: list[LinkDown] = []
    link = Link(server.address, "test", on_down=downs.append)
    async with trio.open_nursery() as callers, trio.open_nursery() as running:
        await running.start(link.run)
        server.stall()

        async def ping() -> None:
            with pytest.raises(LinkDown, match="stopped"):
                await link.call("PING")

        callers.start_soon(ping)
        await eventually(lambda: link.outstanding == 1)
        running.cancel_scope.cancel()
    assert len(downs) == 1
    assert not link.state.up
    with pytest.raises(LinkDown, match="stopped"):
        await link.call("PING")


@pytest.mark.parametrize(
    "nonsense",
    [
        b"+OK\r\n",
        b"?\r\n",
        b"%1\r\n*1\r\n:1\r\n:1\r\n",
        b">3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n",
        b"*1\r\n$-5\r\n",
    ],
)
async def test_nonsense_breaks_the_connection(nonsense: bytes, nursery: trio.Nursery) -> None:
    """A peer that sends what nobody asked for, or what is no RESP, is left, and the link tries again."""
    connections = 0
    twice = trio.Event()

    async def talk(stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        if connections == 2:
            twice.set()
        await stream.receive_some()
        await stream.send_all(b"%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n")
        await stream.receive_some()
        await stream.send_all(b"+PONG\r\n" + nonsense)
        await stream.receive_some()

    listeners = await nursery.start(trio.serve_tcp, talk, 0)
    link = Link(Address(host="127.0.0.1", port=listeners[0].socket.getsockname()[1]), "test", backoff=(0.001, 0.001))
    await nursery.start(link.run)
    await twice.wait()


def test_names(server: Server) -> None:
    """A name that the server would refuse is refused at once."""
    for name in ("", "two words", "é"):
        with pytest.raises(ValueError, match="CLIENT SETNAME"):
            Link(server.address, name)


async def test_reply_without_end(server: Server, nursery: trio.Nursery) -> None:
    """A reply above `max_reply_bytes` breaks the connection instead of filling the memory."""
    server.client.set("big", b"x" * 1_000_000)
    link = Link(server.address, "test", max_reply_bytes=500_000)
    await nursery.start(link.run)
    with pytest.raises(LinkDown, match="more than 500000 bytes"):
        await link.call("GET", "big")
