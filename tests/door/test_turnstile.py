"""Event upgrades in a crowd: in order, a few at a time, and behind agents."""

import socket
import time

import pytest
import trio
import trio.testing

from broker.config import Config, Limits
from broker.door import Kind
from broker.door.turnstile import AT_LEAST, AT_ONCE, Turnstile
from tests.door.conftest import Site

HEAD = (
    b" HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-API-Key: nr_live_good\r\n\r\n"
)
CROWD = 480
FEW = 60


async def test_a_few_at_a_time(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """All who wait get through in order, only so many in one pass of the loop if that is short."""
    monkeypatch.setattr("broker.door.turnstile.AT_LEAST", 0.0)
    turnstile = Turnstile()
    passed: list[int] = []

    async def come(number: int) -> None:
        await turnstile.take_turn()
        passed.append(number)

    async with trio.open_nursery() as crowd:
        for number in range(FEW):
            crowd.start_soon(come, number)
            await trio.testing.wait_all_tasks_blocked()
        assert turnstile.waiting == FEW
        nursery.start_soon(turnstile.run)
        before = 0
        while len(passed) < FEW:
            await trio.lowlevel.checkpoint()
            assert len(passed) <= before + 2 * AT_ONCE  # those of two passes: within one, the order is anything
            before = len(passed)
    passes = [sorted(passed[start : start + AT_ONCE]) for start in range(0, FEW, AT_ONCE)]
    assert passes == [list(range(start, start + AT_ONCE)) for start in range(0, FEW, AT_ONCE)]
    nursery.cancel_scope.cancel()


async def test_a_long_pass(nursery: trio.Nursery) -> None:
    """Where others are long at it, as many get through in a pass as keeps to a rate."""
    turnstile = Turnstile()
    passed: list[int] = []

    async def come(number: int) -> None:
        await turnstile.take_turn()
        passed.append(number)

    async with trio.open_nursery() as crowd:
        for number in range(FEW):
            crowd.start_soon(come, number)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(turnstile.run)
        passes = 0
        while len(passed) < FEW:
            until = time.perf_counter() + 20 / AT_LEAST
            while time.perf_counter() < until:
                continue  # others hold the loop
            await trio.lowlevel.checkpoint()
            passes += 1
    assert passes < FEW / AT_ONCE / 2
    nursery.cancel_scope.cancel()


async def test_who_goes_is_forgotten(nursery: trio.Nursery) -> None:
    """Whoever gives up while waiting keeps nobody else from passing."""
    turnstile = Turnstile()
    with trio.move_on_after(0):
        await turnstile.take_turn()
    assert turnstile.waiting == 0
    nursery.start_soon(turnstile.run)
    await turnstile.take_turn()
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("config", [Config(limits=Limits(max_connections=1000, close_timeout=1.0))])
async def test_agent_behind_a_crowd(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that comes last of a crowd, all at once, has its session before most of the browsers have theirs."""
    monkeypatch.setattr("broker.door.turnstile.AT_LEAST", 0.0)  # on a busy machine every pass is long
    clients = []
    for target in [b"/ws/?token=nr_live_good"] * CROWD + [b"/ws/control/acme"]:
        client = socket.create_connection(site.address)  # one step of the loop: they are all there when the door looks
        client.sendall(b"GET " + target + HEAD)
        clients.append(client)
    while not site.door.peers(Kind.CONTROL):
        await trio.lowlevel.checkpoint()
    assert len(site.door.peers(Kind.EVENTS)) < CROWD / 2
    while len(site.door.peers(Kind.EVENTS)) < CROWD:
        await trio.lowlevel.checkpoint()
    for client in clients:
        client.close()
