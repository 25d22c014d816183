"""Event upgrades in a crowd: in order, a few at a time, and behind agents."""

import contextlib
import math
import socket
from itertools import pairwise

import pytest
import trio
import trio.testing

from broker.config import Config, Limits
from broker.door import Kind
from tests.door.conftest import Site, let_through

HEAD = (
    b" HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-API-Key: nr_live_good\r\n\r\n"
)
PLAIN = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
WITH_BODY = b"GET /health/live HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n"
CROWD = 480


@pytest.mark.parametrize("config", [Config(limits=Limits(max_connections=1000, close_timeout=1.0))])
async def test_agent_behind_a_crowd(site: Site) -> None:
    """An agent that comes last of a crowd, all at once, has its session before most of the browsers have theirs."""
    site.door.state.entries.at_least = 0.0  # on a busy machine every pass is long
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


async def answers(clients: list[socket.socket], each: int) -> None:
    """Read until every client has been given so many answers."""
    for client in clients:
        seen = b""
        while seen.count(b"HTTP/1.1 200") < each:
            with contextlib.suppress(BlockingIOError):
                seen += client.recv(65536)
            await trio.lowlevel.checkpoint()


def read(site: Site) -> int:
    """Return how many messages of browsers have been read."""
    return sum(peer.scanner.messages for peer in site.door.peers(Kind.EVENTS))


async def all_speak(site: Site, clients: list[socket.socket]) -> int:
    """Have each browser say something, and all who may not pass at once wait; returns how many passed in a pass before.

    They wait at a turnstile that lets nobody through: what is sent arrives when the kernel sees fit.
    """
    reads = site.door.state.reads
    at_once, reads.at_once = reads.at_once, 0
    for client in clients:
        client.sendall(b"\x81\x85\0\0\0\0hello")
    while reads.waiting + read(site) < len(clients):
        await trio.lowlevel.checkpoint()
    return at_once


class Headcount(trio.abc.Instrument):
    """Notes how many browsers are here after each pass of the loop."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.here = [CROWD]

    def before_io_wait(self, timeout: float) -> None:
        """Count."""
        self.here.append(len(self._site.door.peers(Kind.EVENTS)))


@pytest.mark.parametrize("config", [Config(limits=Limits(max_connections=1000, close_timeout=1.0))])
async def test_all_speak_and_go_at_once(site: Site) -> None:
    """What a crowd says in the same moment, and that it goes, is dealt with a few at a time, and all of it is."""
    state, longest = site.door.state, 0
    state.reads.at_least = state.exits.at_least = 0.0  # on a busy machine every pass is long
    clients = []
    for _ in range(CROWD):
        client = socket.create_connection(site.address)
        client.sendall(b"GET /ws/?token=nr_live_good" + HEAD)
        clients.append(client)
    while len(site.door.peers(Kind.EVENTS)) < CROWD:
        await trio.lowlevel.checkpoint()
    at_once = await all_speak(site, clients)
    state.reads.at_once = at_once
    while (before := read(site)) < CROWD:
        await trio.lowlevel.checkpoint()
        longest = max(longest, read(site) - before)
    assert at_once <= longest < CROWD / 2
    at_once, state.exits.at_once = state.exits.at_once, 0
    for client in clients:
        client.close()
    with trio.fail_after(30):
        while state.exits.waiting < CROWD:
            await trio.lowlevel.checkpoint()
    state.exits.at_once = at_once
    headcount = Headcount(site)
    trio.lowlevel.add_instrument(headcount)
    while site.door.peers(Kind.EVENTS):
        await trio.lowlevel.checkpoint()
    trio.lowlevel.remove_instrument(headcount)
    assert at_once <= max(before - after for before, after in pairwise(headcount.here)) <= 2 * at_once


@pytest.mark.parametrize("config", [Config(limits=Limits(max_connections=1000, close_timeout=1.0))])
async def test_agent_speaks_in_a_crowd(site: Site) -> None:
    """What an agent says while a crowd of browsers waits to be heard is read at once."""
    site.door.state.reads.at_least = 0.0  # on a busy machine every pass is long
    clients = []
    for target in [b"/ws/?token=nr_live_good"] * CROWD + [b"/ws/control/acme"]:
        client = socket.create_connection(site.address)
        client.sendall(b"GET " + target + HEAD)
        clients.append(client)
    while len(site.door.peers(Kind.EVENTS)) < CROWD or not site.door.peers(Kind.CONTROL):
        await trio.lowlevel.checkpoint()
    (agent,) = site.door.peers(Kind.CONTROL)
    at_once = await all_speak(site, clients[:-1])
    held = CROWD - read(site)
    clients[-1].sendall(b"\x81\x85\0\0\0\0hello")
    while not agent.scanner.messages:
        await trio.lowlevel.checkpoint()
    assert site.door.state.reads.waiting == held
    site.door.state.reads.at_once = at_once
    while read(site) < CROWD:
        await trio.lowlevel.checkpoint()
    for client in clients:
        client.close()


@pytest.mark.parametrize("config", [Config(limits=Limits(max_connections=1000, close_timeout=1.0))])
async def test_requests_of_a_crowd(site: Site) -> None:
    """Requests that arrive in the same moment are read a few at a time, and all of them are answered."""
    requests = site.door.state.requests
    at_once, requests.at_once, requests.at_least = requests.at_once, 0, 0.0
    clients = [socket.create_connection(site.address) for _ in range(CROWD)]
    while site.services.counters.accepted < CROWD:
        await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked()
    for client in clients:
        client.sendall(b"GET /ws/?token=nr_live_good" + HEAD)
    await let_through(requests, CROWD, at_once)
    while len(site.door.peers(Kind.EVENTS)) < CROWD:
        await trio.lowlevel.checkpoint()
    for client in clients:
        client.close()


@pytest.mark.parametrize("config", [Config(limits=Limits(max_connections=1000, close_timeout=1.0))])
@pytest.mark.parametrize(
    ("before", "answered", "rest"),
    [
        (2 * PLAIN, 2, PLAIN),
        (PLAIN + PLAIN[:9], 1, PLAIN[9:]),
        (PLAIN[:9], 0, PLAIN[9:]),
        (PLAIN + WITH_BODY + b"body", 1, b"body"),
    ],
)
async def test_further_requests_of_a_crowd(site: Site, before: bytes, answered: int, rest: bytes) -> None:
    """So are those that arrive in the same moment over connections that were kept, and the rests of those begun."""
    requests = site.door.state.requests
    clients = [socket.create_connection(site.address) for _ in range(CROWD)]
    for client in clients:
        client.sendall(before)
        client.setblocking(False)
    await answers(clients, answered)
    while site.services.counters.accepted < CROWD:
        await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked()
    at_once, requests.at_once, requests.at_least = requests.at_once, 0, 0.0
    for client in clients:
        client.sendall(rest)
    await let_through(requests, CROWD, at_once)
    await answers(clients, 1)
    for client in clients:
        client.close()


@pytest.mark.parametrize(("newcomers", "crowded"), [(128, False), (129, True)])
async def test_a_crowd_is_more_than_128(site: Site, newcomers: int, crowded: bool) -> None:
    """So many in the kernel's queue, or on their way, need not wait for each other; one more makes a crowd."""
    gate = site.door.state.gate
    gate.queued = newcomers
    assert site.door.state.is_crowded is crowded
    gate.queued = 0
    assert not site.door.state.is_crowded
    for _ in range(newcomers):
        gate.enter()
    assert site.door.state.is_crowded is crowded


async def test_a_lonely_newcomer_need_not_wait(site: Site) -> None:
    """The door knows how long a pass of the loop lasts: who comes early in one passes every turnstile at once."""
    for turnstile in site.door.state.turnstiles:
        turnstile.at_once, turnstile.early = 1, math.inf  # a machine that pauses us between two steps changes nothing
        assert turnstile.pass_at_once()
