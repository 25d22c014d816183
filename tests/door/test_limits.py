"""What one address may have and do; each limit at its bound, and one just inside it."""

import math
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from broker.config import Config, Control, Limits, Server
from broker.door import arrival
from broker.door.bad_credentials import MAX_ENTRIES, SLOWEST, BadCredentials
from broker.door.rates import Rates
from broker.door.state import Kind
from tests.door.conftest import Site
from tests.door.test_proxies import PLAIN, proxy_header
from tests.support import RawClient, Rejected, WsClient

EVENTS = "/ws/?token=nr_live_good"
BEHIND = Server(trusted_proxies=("127.0.0.1",))
BEHIND_TCP = Server(trusted_proxies=("127.0.0.1",), proxy_protocol=True)


def limited(server: Server = BEHIND, hold: float = 0.2, **limits: Any) -> Config:
    """A configuration with these limits, behind a proxy on this machine."""
    return Config(server=server, control=Control(upgrade_hold=hold), limits=Limits(**limits))


async def connect(site: Site, address: str | None, target: str = EVENTS, **headers: str) -> WsClient:
    """Open a WebSocket from this address, as the proxy tells."""
    forwarded = {} if address is None else {"X-Forwarded-For": address}
    return await WsClient.connect(site.address, target, {**forwarded, **headers})


async def refused(site: Site, address: str, target: str = EVENTS, **headers: str) -> Rejected:
    """Expect that a WebSocket from this address is refused."""
    with pytest.raises(Rejected) as caught:
        await connect(site, address, target, **headers)
    return caught.value


@pytest.mark.parametrize("config", [limited(max_connections=2)])
async def test_connections_in_all(site: Site, config: Config) -> None:
    """The last place of all is given, the one after it is not: 503 with Retry-After."""
    clients = [await connect(site, None) for _ in range(2)]
    error = await refused(site, "203.0.113.7")
    assert (error.status, error.error_code) == (503, "too_many_connections")
    assert error.headers["retry-after"] == "5"
    for client in clients:
        await client.close()


@pytest.mark.parametrize("config", [limited(max_connections_per_address=2)])
async def test_connections_per_address(site: Site, config: Config) -> None:
    """An address, or a /64 of IPv6, has so many places; the next is refused with 429, other addresses are not."""
    clients = [await connect(site, address) for address in ("203.0.113.7", "203.0.113.7", "2001:db8::1", "2001:db8::2")]
    for address in ("203.0.113.7", "2001:db8::ffff"):
        error = await refused(site, address)
        assert (error.status, error.error_code) == (429, "too_many_connections")
        assert error.headers["retry-after"] == "5"
        assert b"this address" in error.body
    clients += [await connect(site, address) for address in ("203.0.113.8", "2001:db8:0:1::1")]
    await clients.pop(0).close()
    clients.append(await connect(site, "203.0.113.7"))
    for client in clients:
        await client.close()


@pytest.mark.parametrize("config", [limited(max_connections_per_address=1)])
async def test_loopback_and_proxies_are_no_address(site: Site, config: Config) -> None:
    """Loopback, unix sockets and the proxy itself stand for many clients, and are not counted as one."""
    clients = [await connect(site, address) for address in (None, None, "127.0.0.1", "127.0.0.1", "nonsense")]
    clients += [await WsClient.connect(site.path, EVENTS) for _ in range(2)]
    for client in clients:
        await client.close()


@pytest.mark.parametrize("config", [limited(max_connections_per_address=1, hold=5)])
async def test_a_control_upgrade_waits_for_a_place_of_its_address(site: Site, config: Config) -> None:
    """A control upgrade at its address's bound is held until a place is free."""
    first = await connect(site, "203.0.113.7")
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def late() -> None:
            agent = await connect(site, "203.0.113.7", "/ws/control/acme", **{"X-API-Key": "nr_live_good"})
            assert str(await agent.receive()).startswith("control k1")
            await agent.close()

        while not site.door.state.slots.waiting:
            await trio.lowlevel.checkpoint()
        await first.close()


@pytest.mark.parametrize("config", [limited(max_connections_per_address=1, hold=5)])
async def test_a_bound_that_is_raised_while_somebody_waits(site: Site, config: Config) -> None:
    """Control upgrades that wait for places are let in by a reload that makes some, as many as there are now."""
    first = await connect(site, "203.0.113.7")
    outcomes: list[str] = []

    async def wait() -> None:
        try:
            agent = await connect(site, "203.0.113.7", "/ws/control/acme", **{"X-API-Key": "nr_live_good"})
        except Rejected as error:
            outcomes.append(error.error_code)
        else:
            outcomes.append(str(await agent.receive())[:10])
            await agent.kill()

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        while site.door.state.slots.waiting < 3:
            await trio.lowlevel.checkpoint()
        services = site.door.state.services
        limits = attrs.evolve(services.config.limits, max_connections_per_address=4)
        services.config = attrs.evolve(services.config, limits=limits)
        site.door.reconfigure()
    assert outcomes == ["control k1"] * 3
    await first.close()


async def knock(site: Site, address: str, data: bytes = b"") -> RawClient:
    """Connect from this address through a TCP proxy, and send this."""
    client = await site.raw()
    await client.send(proxy_header(address) + data)
    return client


@pytest.mark.parametrize("config", [limited(BEHIND_TCP, max_handshakes_per_address=2)])
async def test_handshakes_of_one_address_wait_for_each_other(site: Site, config: Config) -> None:
    """An address with as many unfinished handshakes as allowed waits for itself, and keeps nobody else out."""
    line = site.door.state.line
    slow = [await knock(site, "203.0.113.7") for _ in range(2)]
    while line.inside("203.0.113.7") < 2:
        await trio.lowlevel.checkpoint()
    late = await knock(site, "203.0.113.7", PLAIN)
    while not line.waiting:
        await trio.lowlevel.checkpoint()
    assert site.door.state.gate.inside == 2
    async with await knock(site, "203.0.113.8", PLAIN) as other:
        assert (await other.reply()).status == 200
    await slow.pop().aclose()
    reply = await late.reply()
    assert (reply.status, reply.headers["connection"]) == (200, "close")
    for client in (*slow, late):
        await client.aclose()
    while site.door.state.gate.inside:
        await trio.lowlevel.checkpoint()
    assert line.waiting == line.inside("203.0.113.7") == 0


@pytest.mark.parametrize("config", [limited(BEHIND_TCP, max_handshakes_per_address=1)])
async def test_a_line_that_is_too_long(site: Site, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line is bounded: one more is closed and counted."""
    monkeypatch.setattr(arrival, "MAX_WAITING", 1)
    clients = [await knock(site, "203.0.113.7") for _ in range(2)]
    while not site.door.state.line.waiting:
        await trio.lowlevel.checkpoint()
    async with await knock(site, "203.0.113.7", PLAIN) as refused_one:
        assert await refused_one.read_to_end() == b""
    assert site.services.counters.refused["too_many_handshakes"] == 1
    for client in clients:
        await client.aclose()


def test_bad_credentials_cost_more_and_more() -> None:
    """So many a minute are free, as many again are held back longer and longer, then the address must wait."""
    table = BadCredentials(per_minute=10)
    assert [table.note("a", 0) for _ in range(10)] == [0.0] * 10
    delays = [table.note("a", 0) for _ in range(9)]
    assert delays == sorted(delays)
    assert 0 < delays[0] < delays[-1] < SLOWEST
    assert table.wait("a", 0) == 0.0
    assert table.note("a", 0) == SLOWEST
    assert table.wait("a", 0) == pytest.approx(6.0)
    assert table.wait("a", 6.0) == pytest.approx(0.0)
    assert table.wait("b", 0) == 0.0
    assert table.note("a", 200) == 0.0


def test_the_table_of_bad_credentials_is_bounded() -> None:
    """A flood of addresses pushes the oldest out."""
    table = BadCredentials(per_minute=1)
    for number in range(MAX_ENTRIES + 10):
        table.note(str(number), 0)
    assert len(table) == MAX_ENTRIES
    assert table.wait("0", 0) == 0.0


@pytest.mark.parametrize("config", [limited(bad_credentials_per_minute=4, hold=1.0)])
async def test_guessing_is_slowed_and_then_refused(
    site: Site, config: Config, autojump_clock: trio.testing.MockClock
) -> None:
    """Four guesses a minute are answered at once, four more late, then 429 with Retry-After; others are untouched."""
    autojump_clock.autojump_threshold = 0.02  # bytes on their way through the kernel get there first
    taken: list[float] = []
    while not site.door.state.guard.failures.wait("203.0.113.7", trio.current_time()):
        started = trio.current_time()
        client = await connect(site, "203.0.113.7", f"/ws/?token=guess{len(taken)}")
        assert (await client.close()).code == 1008
        taken.append(trio.current_time() - started)
    error = await refused(site, "203.0.113.7", "/ws/?token=another")
    assert (error.status, error.error_code) == (429, "too_many_requests")
    assert 1 <= int(error.headers["retry-after"]) <= 15
    assert max(taken[:4]) < 0.1
    assert taken[4:] == sorted(taken[4:])
    assert taken[4] > 0.5
    assert len(taken) >= 8
    asked = site.ledger.asked
    for target, headers in (
        (EVENTS, {}),
        ("/ws/?ticket=tkt_guess", {}),
        ("/ws/control/acme", {"X-API-Key": "guess"}),
    ):
        assert (await refused(site, "203.0.113.7", target, **headers)).status == 429
    assert site.ledger.asked == asked + 1, "only the control upgrade was looked at"
    async with await site.raw() as rest:
        forwarded = {"X-Forwarded-For": "203.0.113.7", "X-API-Key": "nr_live_good"}
        assert (await rest.request("GET", "/health/live", forwarded)).status == 200
        started = trio.current_time()
        assert (await rest.request("GET", "/api/v1/orgs/acme/status", forwarded)).status == 200
        assert trio.current_time() - started >= 0.5, "half of what an upgrade is held"
    for address in ("203.0.113.8", None):
        await (await connect(site, address)).close()


@pytest.mark.parametrize("config", [limited(bad_credentials_per_minute=1, hold=5)])
async def test_a_known_key_passes_whatever_its_neighbours_do(
    site: Site, config: Config, autojump_clock: trio.testing.MockClock
) -> None:
    """Behind an address that is refused, an agent whose key is known here gets in at once, any other a little later."""
    autojump_clock.autojump_threshold = 0.02  # bytes on their way through the kernel get there first
    agent = {"X-API-Key": "guess"}
    statuses = [(await refused(site, "203.0.113.7", "/ws/control/acme", **agent)).status for _ in range(3)]
    assert statuses == [401, 429, 429]
    site.ledger.remembered.add("nr_live_good")
    agent, began = {"X-API-Key": "nr_live_good"}, trio.current_time()
    async with await connect(site, "203.0.113.7", "/ws/control/acme", **agent) as client:
        assert await client.receive() == "control k1 nr_live_good acme False"
        assert trio.current_time() - began < 0.5
    site.ledger.remembered.clear()
    async with await connect(site, "203.0.113.7", "/ws/control/acme", **agent) as client:
        assert await client.receive() == "control k1 nr_live_good acme False"


@pytest.mark.parametrize("config", [limited(bad_credentials_per_minute=1, hold=8)])
async def test_a_rest_call_waits_for_what_its_neighbours_did(
    site: Site, config: Config, autojump_clock: trio.testing.MockClock
) -> None:
    """Behind an address that is refused a key is verified all the same, if late; a wrong one gains no time by REST."""
    autojump_clock.autojump_threshold = 0.02  # bytes on their way through the kernel get there first
    seen = []
    async with await site.raw() as client:
        for api_key in ("guess", "guess", "guess", "nr_live_good"):
            started, body = trio.current_time(), b'{"api_key": "%b"}' % api_key.encode()
            reply = await client.request("POST", "/api/v1/auth/verify", {"X-Forwarded-For": "203.0.113.7"}, body)
            seen.append((reply.status, round(trio.current_time() - started), reply.headers.get("retry-after")))
    held, answered_late = 4, round(SLOWEST)
    assert seen == [(401, 0, None), (429, answered_late, "2"), (429, held + answered_late, "2"), (200, held, None)]


def test_pace() -> None:
    """Each name has its burst and its rate, and the table is bounded."""
    pace = Rates(rate=2)
    assert [pace.wait("a", 0) for _ in range(20)] == [0.0] * 20
    assert pace.wait("a", 0) == 0.5
    assert pace.wait("b", 0) == 0.0
    assert pace.wait("a", 0.5) == 0.0
    assert [pace.lateness("c", 0) for _ in range(22)] == [0.0] * 20 + [0.5, 1.0]
    assert pace.lateness("c", 1.5) == 0.0


@pytest.mark.parametrize("config", [limited(requests_per_second=0.5)])
async def test_requests_of_one_address(site: Site, config: Config, autojump_clock: trio.testing.MockClock) -> None:
    """Five requests are answered at once, the sixth two seconds late; others, and who is let in, are not held up."""
    autojump_clock.autojump_threshold = 0.02  # bytes on their way through the kernel get there first
    taken = []
    async with await site.raw() as client:
        for address in ("203.0.113.7",) * 6 + ("203.0.113.8", "127.0.0.1"):
            started = trio.current_time()
            reply = await client.request("GET", "/health/live", {"X-Forwarded-For": address})
            assert reply.status == 200
            taken.append(round(trio.current_time() - started))
    assert taken == [0, 0, 0, 0, 0, 2, 0, 0]
    started = trio.current_time()
    await (await connect(site, "203.0.113.7")).close()
    assert trio.current_time() - started < 1


@pytest.mark.parametrize("config", [limited(requests_per_second=0.5)])
async def test_refused_upgrades_of_one_address(
    site: Site, config: Config, autojump_clock: trio.testing.MockClock
) -> None:
    """An upgrade that is refused counts as a request, and so does what cannot be read."""
    autojump_clock.autojump_threshold = 0.02  # bytes on their way through the kernel get there first
    taken = []
    forwarded = {"X-Forwarded-For": "203.0.113.7"}
    upgrade = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    async with await site.raw() as client:
        for _ in range(6):
            started = trio.current_time()
            reply = await client.request("GET", "/ws/control/acme", {**forwarded, **upgrade})
            assert reply.status == 401
            taken.append(round(trio.current_time() - started))
        assert taken == [0, 0, 0, 0, 0, 2]
        started = trio.current_time()
        assert (await client.request("GET", "/health/live?%", forwarded)).status == 400
        assert round(trio.current_time() - started) == 2


def test_nobody_waits_for_longer_than_the_count_takes_to_fall() -> None:
    """However many are wrong at once, the address waits as long as for the last of those that count."""
    table = BadCredentials(per_minute=10)
    for _ in range(1000):
        table.note("a", 0)
    assert table.wait("a", 0) == pytest.approx(6.0)


async def test_limits_that_change(site: Site) -> None:
    """Every limit of the configuration holds from the reload on, for those that come."""
    state = site.door.state
    new = Limits(
        max_connections=101,
        max_connections_per_key=102,
        max_connections_per_address=103,
        max_handshakes_per_address=104,
        bad_credentials_per_minute=105,
        tickets_per_second=106,
        requests_per_second=107,
        outbox_bytes=108_000,
        max_message_bytes=109_000,
    )
    state.services.config = attrs.evolve(state.services.config, limits=new)
    state.reconfigure()
    slots, peers = state.slots, state.peer_limits[Kind.EVENTS]
    assert (slots.total, slots.per_key, slots.per_address) == (101, 102, 103)
    assert (state.line.per_address, state.guard.failures.per_minute) == (104, 105)
    assert (state.ticket_rates.rate, state.request_rates.rate) == (106, 107)
    assert (peers.outbox_bytes, peers.max_message_bytes) == (108_000, 109_000)


async def test_agents_are_borne(site: Site) -> None:
    """A control socket that stalls or floods is not closed for it; an event socket is."""
    limits = site.door.state.peer_limits
    agents, browsers = limits[Kind.CONTROL], limits[Kind.EVENTS]
    assert agents.write_stall_timeout == agents.rate_patience == math.inf
    assert max(browsers.write_stall_timeout, browsers.rate_patience) < 600
