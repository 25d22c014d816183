"""Servers that go away, come back, or stop answering."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Awaitable, Callable

import pytest
import redis.exceptions
import structlog
import trio
from trio.testing import MockClock

from broker.link.address import Address
from broker.link.errors import LinkDown, StartupError
from broker.link.link import Link
from tests.link.servers import Server, eventually

QUICK = (0.001, 0.01)


async def test_killed_server(server: Server, nursery: trio.Nursery) -> None:
    """Kill -9 under a call raises LinkDown there, and the link is up again when the server is."""
    changes: list[str] = []
    link = Link(
        server.address,
        "test",
        backoff=QUICK,
        on_up=lambda: changes.append("up"),
        on_down=lambda _: changes.append("down"),
    )
    await nursery.start(link.run)
    assert link.generation == 1
    server.stall()

    async def ping() -> None:
        with pytest.raises(LinkDown):
            await link.call("PING")

    async with trio.open_nursery() as callers:
        callers.start_soon(ping)
        await eventually(lambda: link.outstanding == 1)
        server.kill()
    assert not link.state.up
    assert link.state.error
    with pytest.raises(LinkDown, match=link.state.error.replace("[", r"\[")):
        await link.call("PING")
    server.start()
    with trio.fail_after(20):
        await link.wait_up()
    assert link.generation == 2
    assert await link.call("PING") == b"PONG"
    assert changes == ["up", "down", "up"]


async def test_server_that_comes_late(server: Server, nursery: trio.Nursery) -> None:
    """`run` has started after the first attempt even if there is no server yet; each reason is logged once."""
    server.kill()
    link = Link(server.address, "test", backoff=QUICK)
    with structlog.testing.capture_logs() as logs:
        await nursery.start(link.run)
        assert not link.state.up
        assert "refused" in str(link.state.error)
        with pytest.raises(LinkDown, match="refused"):
            await link.call("PING")
        server.start()
        with trio.fail_after(20):
            await link.wait_up()
    reasons = [line["reason"] for line in logs if line["event"] == "link cannot connect"]
    assert len(reasons) == len(set(reasons))


async def test_loading_server_is_not_up(nursery: trio.Nursery) -> None:
    """A server that still loads its data is not used yet."""
    answers = [b"-LOADING Valkey is loading the dataset in memory\r\n", b"+PONG\r\n"]

    async def talk(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n")
        await stream.receive_some()
        await stream.send_all(answers.pop(0))
        await stream.receive_some()

    listeners = await nursery.start(trio.serve_tcp, talk, 0)
    link = Link(Address(host="127.0.0.1", port=listeners[0].socket.getsockname()[1]), "test", backoff=QUICK)
    await nursery.start(link.run)
    assert not link.state.up
    assert "loading" in str(link.state.error)
    with trio.fail_after(20):
        await link.wait_up()


async def test_stalled_server_is_noticed(server: Server, nursery: trio.Nursery, mock_clock: MockClock) -> None:
    """A server that is stopped, and closes nothing, is given up after interval and timeout; not before."""
    link = Link(server.address, "test")
    await nursery.start(link.run)
    client = server.client  # one connection: a new one says hello itself

    def pings() -> int:
        return int(client.info("commandstats")["cmdstat_hello"]["calls"])

    for _ in range(3):  # while it answers, pings change nothing
        before = pings()
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(5.1)
        await eventually(lambda: pings() == before + 1)  # noqa: B023
        await eventually(lambda: link.outstanding == 0)
    await trio.testing.wait_all_tasks_blocked()
    server.stall()
    mock_clock.jump(5.1)
    await eventually(lambda: link.outstanding == 1)
    mock_clock.jump(4.8)
    await trio.testing.wait_all_tasks_blocked()
    assert link.state.up
    mock_clock.jump(0.3)
    await eventually(lambda: not link.state.up)
    assert "no sign of life" in str(link.state.error)
    server.resume()
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(1)
    await eventually(lambda: link.state.up)


async def test_stalled_while_connecting(server: Server, nursery: trio.Nursery) -> None:
    """A server that accepts and says nothing does not hold the link for ever."""
    server.stall()
    link = Link(server.address, "test", connect_timeout=0.05, backoff=QUICK)
    await nursery.start(link.run)
    assert "no answer in 0.05 s" in str(link.state.error)
    server.resume()
    with trio.fail_after(20):
        await link.wait_up()


async def test_replica(server: Server, nursery: trio.Nursery) -> None:
    """A server that turns into a replica is left at its first refusal, and taken again when it is primary again."""
    link = Link(server.address, "test", backoff=QUICK, ping_interval=3600)
    await nursery.start(link.run)
    server.command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(redis.exceptions.ReadOnlyError):
        await link.call("SET", "k", "v")
    await eventually(lambda: "read-only replica: name the primary" in str(link.state.error))
    async with trio.open_nursery() as another:
        with pytest.raises(StartupError, match="read-only replica"):
            await another.start(Link(server.address, "late").run)
    server.command("REPLICAOF", "NO", "ONE")
    with trio.fail_after(20):
        await link.wait_up()
    assert await link.call("SET", "k", "v") == b"OK"


async def test_replica_that_is_only_listened_to(server: Server, nursery: trio.Nursery) -> None:
    """A link that never writes leaves a server that turns into a replica, too: it asks when all is quiet."""
    link = Link(server.address, "test", backoff=QUICK, ping_interval=0.02)
    await nursery.start(link.run)
    server.command("REPLICAOF", "127.0.0.1", "1")
    await eventually(lambda: "read-only replica: name the primary" in str(link.state.error))
    server.command("REPLICAOF", "NO", "ONE")
    with trio.fail_after(20):
        await link.wait_up()


async def test_replica_that_is_asked_for_the_time(server: Server, nursery: trio.Nursery) -> None:
    """Nor does a link stay that hears something all the time, though it is no sign of a primary."""
    link = Link(server.address, "test", backoff=QUICK, ping_interval=0.05)
    await nursery.start(link.run)

    async def ask() -> None:
        while link.state.up:
            with contextlib.suppress(LinkDown):
                await link.call("TIME")
            await trio.sleep(0.01)

    nursery.start_soon(ask)
    server.command("REPLICAOF", "127.0.0.1", "1")
    await eventually(lambda: "read-only replica: name the primary" in str(link.state.error))


async def test_attempts_become_rarer(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The delay between attempts doubles, with jitter, up to its cap, so that a dead server is not hammered."""
    autojump_clock.autojump_threshold = 0.01
    attempts: list[float] = []
    enough = trio.Event()

    async def slam(stream: trio.SocketStream) -> None:
        attempts.append(trio.current_time())
        await stream.aclose()
        if len(attempts) == 9:
            enough.set()

    listeners = await nursery.start(trio.serve_tcp, slam, 0)
    link = Link(Address(host="127.0.0.1", port=listeners[0].socket.getsockname()[1]), "test")
    await nursery.start(link.run)
    await enough.wait()
    for number, (before, after) in enumerate(itertools.pairwise(attempts)):
        longest = min(2.0, 0.05 * 2**number)
        assert longest / 2 - 0.001 <= after - before <= longest + 0.001


GREETING = b"%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n"


async def greet(stream: trio.SocketStream) -> None:
    """Let a link in."""
    for answer in (GREETING, b"+PONG\r\n"):
        await stream.receive_some()
        await stream.send_all(answer)


async def serve(nursery: trio.Nursery, talk: Callable[[trio.SocketStream], Awaitable[None]]) -> Address:
    """Play a server; returns where it listens."""
    listeners = await nursery.start(trio.serve_tcp, talk, 0)
    return Address(host="127.0.0.1", port=listeners[0].socket.getsockname()[1])


async def test_a_ping_behind_a_slow_batch(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """While a batch that came before the answer is handled, the answer is not read: the server is not blamed for it."""
    autojump_clock.autojump_threshold = 0.01

    async def talk(stream: trio.SocketStream) -> None:
        await greet(stream)
        await stream.receive_some()  # the ping
        await stream.send_all(b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n")
        await trio.sleep(59)
        await stream.send_all(GREETING)
        await trio.sleep_forever()

    async def on_push(_batch: list[list[bytes]]) -> None:
        await trio.sleep(58)

    link = Link(await serve(nursery, talk), "test", on_push=on_push)
    await nursery.start(link.run)
    await trio.sleep(66)
    assert (link.state.up, link.generation, link.outstanding) == (True, 1, 0)


async def test_refused_attempts_are_rare(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A server that refuses our password is asked every few seconds at first, and then twice a minute."""
    autojump_clock.autojump_threshold = 0.01
    attempts: list[float] = []
    enough = trio.Event()

    async def talk(stream: trio.SocketStream) -> None:
        attempts.append(trio.current_time())
        if len(attempts) == 1:
            await greet(stream)
        else:
            await stream.receive_some()
            await stream.send_all(b"-WRONGPASS invalid username-password pair or user is disabled.\r\n")
        await stream.aclose()
        if len(attempts) == 8:
            enough.set()

    link = Link(await serve(nursery, talk), "test")
    await nursery.start(link.run)
    await enough.wait()
    assert attempts[1] - attempts[0] < 0.1
    for number, (before, after) in enumerate(itertools.pairwise(attempts[1:]), 1):
        longest = min(30.0, 2.0 * 2**number)
        assert longest / 2 - 0.001 <= after - before <= longest + 0.001


@pytest.mark.parametrize(("lasted", "longest"), [(9.9, 2.0), (10.1, 0.05)])
async def test_a_connection_that_lasted(
    nursery: trio.Nursery, autojump_clock: MockClock, lasted: float, longest: float
) -> None:
    """After a good connection the next attempt comes at once; one that broke soon was as bad as none."""
    autojump_clock.autojump_threshold = 0.01
    attempts: list[float] = []
    enough = trio.Event()

    async def talk(stream: trio.SocketStream) -> None:
        attempts.append(trio.current_time())
        if len(attempts) == 8:
            await greet(stream)
            attempts[-1] = trio.current_time()
            await trio.sleep(lasted)
        await stream.aclose()
        if len(attempts) == 9:
            enough.set()

    link = Link(await serve(nursery, talk), "test", ping_interval=60)
    await nursery.start(link.run)
    await enough.wait()
    assert longest / 2 - 0.001 <= attempts[8] - attempts[7] - lasted <= longest + 0.001


async def test_what_is_said_at_the_end(server: Server, nursery: trio.Nursery) -> None:
    """A link that breaks is warned of; one that is stopped, as at every end of the broker, is not."""
    link = Link(server.address, "test", backoff=QUICK)
    with structlog.testing.capture_logs() as logs:
        await nursery.start(link.run)
        link.leave("for this test")
        with trio.fail_after(20):
            await link.wait_up()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True), trio.fail_after(20):
            await link.wait_down()
    assert [(line["event"], line.get("reason")) for line in logs] == [
        ("link up", None),
        ("link down", "for this test"),
        ("link up", None),
    ]
