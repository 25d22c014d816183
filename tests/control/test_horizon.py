"""Since when what a link brings can have been published: by the server's clock, and by the order of its answers."""

import hiredis
import pytest
import trio
from trio.testing import MockClock

from broker.control import horizon as module
from broker.control.horizon import ASK_SECONDS, Horizon
from broker.link.address import Address
from broker.link.subscriptions import SubscriptionLink
from tests.conftest import Valkey
from tests.link.servers import eventually

GREETING = b"%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n"
CONFIRMED = b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"


class Server:
    """A server whose clock stands where it is put, in seconds."""

    def __init__(self) -> None:
        self.now = 1000

    async def talk(self, stream: trio.SocketStream) -> None:
        """Serve one connection."""
        reader = hiredis.Reader()
        async for data in stream:
            reader.feed(bytes(data))
            while words := reader.gets():
                await stream.send_all(self._answer(words[0]))

    def _answer(self, command: bytes) -> bytes:
        time = b"*2\r\n$%d\r\n%d\r\n$6\r\n500000\r\n" % (len(str(self.now)), self.now)
        return {b"HELLO": GREETING, b"PING": b"+PONG\r\n", b"TIME": time, b"SUBSCRIBE": CONFIRMED}[command]


async def test_it_is_the_servers_clock(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """As told last by the connection that there is; unknown before one has subscribed or told."""
    autojump_clock.autojump_threshold = 0.01
    server = Server()
    listeners = await nursery.start(trio.serve_tcp, server.talk, 0)
    link = SubscriptionLink(Address(host="127.0.0.1", port=listeners[0].socket.getsockname()[1]), "control")
    horizon = Horizon(link)
    seen: list[int | None] = []
    nursery.start_soon(horizon.run)
    await trio.sleep(1.5 * ASK_SECONDS)  # it lives although there is no connection yet
    seen.append(horizon.ms)
    await nursery.start(link.run)
    seen.append(horizon.ms)
    await link.subscribe(b"a").wait()
    seen.append(horizon.ms)
    server.now = 2000
    await trio.sleep(ASK_SECONDS)
    seen.append(horizon.ms)
    server.now = 1500  # another one, behind the same name
    link.leave("for this test")
    await link.wait_up()
    seen.append(horizon.ms)
    await link.subscribe(b"a").wait()
    seen.append(horizon.ms)
    server.now = 1600
    await trio.sleep(ASK_SECONDS)
    seen.append(horizon.ms)
    assert seen == [None, None, 1_000_500, 2_000_500, None, 1_500_500, 1_600_500]


async def test_a_user_who_may_not_ask(valkey: Valkey, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal came in order, too: what comes behind it was published after the question."""
    monkeypatch.setattr(module, "ASK_SECONDS", 0.001)
    acl = valkey.client.acl_setuser
    acl("narrow", enabled=True, nopass=True, channels=["*"], categories=["+@all"], commands=["-time"])
    link = SubscriptionLink(Address.parse(valkey.url.replace("unix://", "unix://narrow:x@")), "control")
    horizon = Horizon(link)
    await nursery.start(link.run)
    nursery.start_soon(horizon.run)
    await link.subscribe(b"a").wait()
    await eventually(lambda: (horizon.ms or 0) > link.subscribed_at)
    now = link.server_ms()
    await eventually(lambda: (horizon.ms or 0) >= now)
    valkey.client.acl_deluser("narrow")
