"""Subscriptions: confirmed in stream order, restored after every break, refused by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import redis.exceptions
import trio
import trio.testing

from broker.link.address import Address
from broker.link.errors import SubscriptionEnded
from broker.link.subscriptions import CHUNK, SubscriptionLink
from tests.link.servers import Server, eventually

QUICK = (0.001, 0.01)


class Heard:
    """What a link handed over, and in which batches."""

    def __init__(self) -> None:
        self.batches: list[list[list[bytes]]] = []
        self._more = trio.Event()

    async def __call__(self, batch: list[list[bytes]]) -> None:
        self.batches.append(batch)
        self._more.set()
        self._more = trio.Event()

    @property
    def messages(self) -> list[list[bytes]]:
        return [message for batch in self.batches for message in batch]

    async def wait_for(self, count: int) -> None:
        with trio.fail_after(20):
            while len(self.messages) < count:
                await self._more.wait()


async def confirmed(*waits: Callable[[], Awaitable[None]]) -> None:
    """Wait for several confirmations."""
    with trio.fail_after(20):
        for wait in waits:
            await wait()


async def test_channel_and_pattern(server: Server, nursery: trio.Nursery) -> None:
    """After the confirmation, messages of a channel and of a pattern arrive as bytes, each in its shape."""
    heard = Heard()
    link = SubscriptionLink(server.address, "test", on_push=heard)
    await nursery.start(link.run)
    channel, pattern = link.subscribe(b"news"), link.psubscribe(b"control:*")
    await confirmed(channel.wait, pattern.wait)
    assert server.client.publish("news", b"\x00\xff") == 1
    assert server.client.publish("control:acme", "x") == 1
    await heard.wait_for(2)
    assert heard.messages == [[b"message", b"news", b"\x00\xff"], [b"pmessage", b"control:*", b"control:acme", b"x"]]
    assert link.pushes == 2


async def test_subscribed_at_is_the_servers_time_before_it(server: Server, nursery: trio.Nursery) -> None:
    """`subscribed_at` lies between the server's clock before the wish and after the confirmation."""

    def now() -> int:
        seconds, micros = server.client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    link = SubscriptionLink(server.address, "test")
    await nursery.start(link.run)
    before = now()
    first = link.subscribe(b"a")
    await confirmed(first.wait)
    between = now()
    second = link.subscribe(b"b")
    await confirmed(second.wait)
    assert before <= first.subscribed_at <= between <= second.subscribed_at <= now()
    assert link.subscribed_at == first.subscribed_at
    assert first.generation == second.generation == link.generation == 1


async def test_subscribing_is_idempotent(server: Server, nursery: trio.Nursery) -> None:
    """A channel that is wanted already is not asked for again, and one that is not wanted is not given up."""
    link = SubscriptionLink(server.address, "test")
    await nursery.start(link.run)
    first = link.subscribe(b"a")
    assert link.subscribe(b"a") is first
    assert link.psubscribe(b"a") is not first
    await confirmed(first.wait)
    assert link.subscribe(b"a") is first
    link.unsubscribe(b"never wanted")
    assert await link.call("PING") == b"PONG"
    assert link.wanted == 2


async def test_unsubscribe(server: Server, nursery: trio.Nursery) -> None:
    """A channel given up has no subscriber any more, and the others stay."""
    link = SubscriptionLink(server.address, "test")
    await nursery.start(link.run)
    await confirmed(link.subscribe(b"a").wait, link.subscribe(b"b").wait, link.psubscribe(b"p*").wait)
    link.unsubscribe(b"a")
    link.punsubscribe(b"p*")
    await eventually(lambda: server.client.pubsub_channels() == [b"b"])
    await eventually(lambda: server.client.pubsub_numpat() == 0)


async def test_last_wish_wins(server: Server, nursery: trio.Nursery) -> None:
    """Wishes made in one breath are executed in order; who waits for one that was given up is told."""
    link = SubscriptionLink(server.address, "test")
    await nursery.start(link.run)
    first = link.subscribe(b"a")
    link.unsubscribe(b"a")
    second = link.subscribe(b"a")
    other = link.subscribe(b"b")
    link.unsubscribe(b"b")
    await confirmed(second.wait)
    with pytest.raises(SubscriptionEnded, match="given up"):
        await first.wait()
    with pytest.raises(SubscriptionEnded):
        await other.wait()
    await eventually(lambda: server.client.pubsub_channels() == [b"a"])


async def test_confirmation_keeps_its_place_between_messages(nursery: trio.Nursery) -> None:
    """Messages before a confirmation are handed over before it fires, those behind it after, all in one read."""
    order: list[object] = []

    async def on_push(batch: list[list[bytes]]) -> None:
        await trio.lowlevel.checkpoint()
        order.extend(message[2] for message in batch)

    def push(*parts: bytes) -> bytes:
        return b">%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)

    async def talk(stream: trio.SocketStream) -> None:
        for answer in (b"%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n", b"+PONG\r\n"):
            await stream.receive_some()
            await stream.send_all(answer)
        await stream.receive_some()
        await stream.send_all(
            push(b"message", b"x", b"1")
            + push(b"message", b"x", b"2")
            + b"*2\r\n$1\r\n7\r\n$4\r\n5999\r\n"
            + push(b"message", b"x", b"3")
            + push(b"subscribe", b"a", b"1")
            + push(b"message", b"a", b"4")
        )
        await stream.receive_some()

    listeners = await nursery.start(trio.serve_tcp, talk, 0)
    address = Address(host="127.0.0.1", port=listeners[0].socket.getsockname()[1])
    link = SubscriptionLink(address, "test", on_push=on_push)
    confirmation = link.subscribe(b"a")
    confirmation.when_settled(order.append)
    await nursery.start(link.run)
    await confirmed(confirmation.wait)
    await trio.testing.wait_all_tasks_blocked()
    assert order == [b"1", b"2", b"3", None, b"4"]
    assert confirmation.subscribed_at == 7005
    late: list[object] = []
    confirmation.when_settled(late.append)
    assert late == [None]


async def test_one_read_is_one_batch(server: Server, nursery: trio.Nursery) -> None:
    """What is there to be read at once is handed over at once."""
    heard = Heard()
    link = SubscriptionLink(server.address, "test", on_push=heard)
    await nursery.start(link.run)
    await confirmed(link.subscribe(b"a").wait)
    script = "for i = 1, 500 do redis.call('PUBLISH', 'a', i) end"
    server.client.eval(script, 0)
    await heard.wait_for(500)
    assert [message[2] for message in heard.messages] == [b"%d" % i for i in range(1, 501)]
    assert len(heard.batches) <= 3


async def test_slow_handler_is_backpressure(server: Server, nursery: trio.Nursery) -> None:
    """Nothing is read while a batch is handled, and replies wait with it; afterwards everything comes, in order."""
    seen: list[bytes] = []
    go_on, entered = trio.Event(), trio.Event()

    async def on_push(batch: list[list[bytes]]) -> None:
        entered.set()
        await go_on.wait()
        seen.extend(message[2] for message in batch)

    link = SubscriptionLink(server.address, "test", on_push=on_push)
    await nursery.start(link.run)
    await confirmed(link.subscribe(b"a").wait)
    server.client.publish("a", "first")
    await entered.wait()
    server.client.publish("a", "second")
    replies: list[object] = []

    async def ping() -> None:
        replies.append(await link.call("PING"))

    nursery.start_soon(ping)
    await trio.testing.wait_all_tasks_blocked()
    assert (seen, replies) == ([], [])
    go_on.set()
    await eventually(lambda: replies == [b"PONG"])
    assert seen == [b"first", b"second"]


async def test_slow_handler_is_not_a_dead_server(
    server: Server, nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    """However long a batch takes, the server is not blamed for it."""
    go_on, entered = trio.Event(), trio.Event()

    async def on_push(_batch: list[list[bytes]]) -> None:
        entered.set()
        await go_on.wait()

    link = SubscriptionLink(server.address, "test", on_push=on_push)
    await nursery.start(link.run)
    await link.subscribe(b"a").wait()
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(5.1)  # a PING is under way ...
    server.client.publish("a", "x")
    await entered.wait()
    for _ in range(10):
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(60)
    assert link.state.up
    go_on.set()
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(5.1)
    await eventually(lambda: link.outstanding == 0)
    assert link.generation == 1


async def test_restored_after_a_kill(server: Server, nursery: trio.Nursery) -> None:
    """After kill -9 and a restart all channels and patterns are back before `on_restored`, which comes once."""
    heard, restored = Heard(), trio.Event()
    channels_then: list[int] = []
    count = 2 * CHUNK + 1

    def on_restored() -> None:
        channels_then.append(sum(confirmation.confirmed for confirmation in confirmations))
        restored.set()

    link = SubscriptionLink(server.address, "test", on_push=heard, on_restored=on_restored, backoff=QUICK)
    await nursery.start(link.run)
    confirmations = [link.subscribe(b"c%d" % i) for i in range(count)]
    confirmations += [link.psubscribe(b"p:*"), link.subscribe(b"gone")]
    await confirmed(*(each.wait for each in confirmations))
    first_time = link.subscribed_at
    server.kill()
    await eventually(lambda: not link.state.up)
    assert not any(each.confirmed for each in confirmations)
    link.unsubscribe(b"gone")
    confirmations.append(link.subscribe(b"wanted meanwhile"))
    server.start()
    with trio.fail_after(20):
        await restored.wait()
    assert channels_then == [count + 2]
    assert len(server.client.pubsub_channels()) == count + 1
    assert link.generation == confirmations[0].generation == 2
    assert link.subscribed_at > first_time
    assert server.client.publish(f"c{count - 1}", "x") == 1
    assert server.client.publish("p:1", "y") == 1
    await heard.wait_for(2)
    assert channels_then == [count + 2]
    link.leave("for this test")
    await eventually(lambda: link.generation == 3)
    assert link.pushes == 2, "also those of former connections"


async def test_restored_with_nothing_to_restore(server: Server, nursery: trio.Nursery) -> None:
    """A break is told of even when nothing was subscribed; the first connection is not a restoration."""
    restored: list[int] = []
    link = SubscriptionLink(server.address, "test", on_restored=lambda: restored.append(link.generation), backoff=QUICK)
    await nursery.start(link.run)
    assert restored == []
    server.kill()
    await eventually(lambda: not link.state.up)
    server.start()
    with trio.fail_after(20):
        await link.wait_up()
    assert restored == [2]


async def test_wish_before_the_first_connection(server: Server, nursery: trio.Nursery) -> None:
    """What is wanted before there is a connection stays pending, and is confirmed when there is one."""
    server.kill()
    link = SubscriptionLink(server.address, "test", backoff=QUICK)
    early = link.subscribe(b"a")
    await nursery.start(link.run)
    assert not early.confirmed
    server.start()
    await confirmed(early.wait)
    assert server.client.pubsub_channels() == [b"a"]


async def test_refused_channels(server: Server, nursery: trio.Nursery) -> None:
    """-NOPERM reaches exactly those who asked for what the user may not have; the link and the others go on."""
    server.command(*("ACL", "SETUSER", "limited", "on", ">pw", "+@all", "resetchannels", "&workflow:*", "&control:*"))
    address = Address(path=str(server.path), username="limited", password="pw")
    restored = trio.Event()
    link = SubscriptionLink(address, "test", on_restored=restored.set, backoff=QUICK)
    await nursery.start(link.run)
    good = [link.subscribe(b"workflow:%d" % i) for i in range(5)]
    bad = link.subscribe(b"secret")
    good += [link.subscribe(b"workflow:5"), link.psubscribe(b"control:*")]
    bad_pattern = link.psubscribe(b"*")
    told: list[object] = []
    bad.when_settled(told.append)
    await confirmed(*(each.wait for each in good))
    for refused in (bad, bad_pattern):
        with trio.fail_after(20), pytest.raises(redis.exceptions.NoPermissionError):
            await refused.wait()
    assert told == [bad.error]
    assert await link.call("PING") == b"PONG"
    assert link.generation == 1

    again = link.subscribe(b"secret")
    assert again is not bad
    with trio.fail_after(20), pytest.raises(redis.exceptions.NoPermissionError):
        await again.wait()

    server.command("ACL", "SETUSER", "limited", "&secret")
    granted = link.subscribe(b"secret")
    await confirmed(granted.wait)

    server.client.client_kill_filter(_type="pubsub")
    with trio.fail_after(20):
        await restored.wait()
    assert granted.confirmed
    assert bad_pattern.error is not None


async def test_given_up_beside_a_refused_one(server: Server, nursery: trio.Nursery) -> None:
    """A channel that is given up while the command that it shares with a forbidden one is refused stays given up."""
    server.command(*("ACL", "SETUSER", "limited", "on", ">pw", "+@all", "resetchannels", "&workflow:*"))
    link = SubscriptionLink(Address(path=str(server.path), username="limited", password="pw"), "test", backoff=QUICK)
    await nursery.start(link.run)
    server.command("CLIENT", "PAUSE", "200")
    link.subscribe(b"workflow:a")
    bad = link.subscribe(b"secret")
    await trio.testing.wait_all_tasks_blocked(0.05)
    link.unsubscribe(b"workflow:a")
    with trio.fail_after(20), pytest.raises(redis.exceptions.NoPermissionError):
        await bad.wait()
    await confirmed(link.subscribe(b"workflow:b").wait)
    assert server.client.pubsub_channels() == [b"workflow:b"]


async def test_clock_that_may_not_be_asked(server: Server, nursery: trio.Nursery) -> None:
    """A user who may not run TIME still subscribes; our own clock stands in."""
    server.command("ACL", "SETUSER", "limited", "on", ">pw", "+@all", "-time", "allchannels")
    link = SubscriptionLink(Address(path=str(server.path), username="limited", password="pw"), "test")
    await nursery.start(link.run)
    confirmation = link.subscribe(b"a")
    await confirmed(confirmation.wait)
    assert confirmation.subscribed_at > 1_700_000_000_000
