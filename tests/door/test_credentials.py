"""Credentials that need not stand in a URL, and those that may."""

import pytest

from broker.config import Config, Events, Limits
from broker.door.credentials import EventCredential
from tests.door.conftest import Site
from tests.door.test_sockets import UPGRADE
from tests.support import Rejected, WsClient

GOOD = {"X-API-Key": "nr_live_good"}


@pytest.mark.parametrize(
    ("target", "subprotocols", "selected", "headers"),
    [
        ("/ws/", ("signalbox", "bearer.nr_live_good"), "signalbox", {}),
        ("/ws/", ("bearer.nr_live_good", "signalbox"), "signalbox", {}),
        ("/ws/", ("bearer.nr_live_good",), None, {}),
        ("/ws/?token=nr_live_good", ("signalbox",), "signalbox", {}),
        ("/ws/?token=nr_live_good", ("mqtt",), None, {}),
        ("/ws/control/acme", ("signalbox",), "signalbox", GOOD),
    ],
)
async def test_subprotocols(
    site: Site, target: str, subprotocols: tuple[str, ...], selected: str | None, headers: dict[str, str]
) -> None:
    """A page may give its token as a subprotocol; `signalbox` is selected when it is offered, nothing else ever."""
    async with await WsClient.connect(site.address, target, headers, subprotocols=subprotocols) as client:
        assert "k1" in str(await client.receive())
        assert client.subprotocol == selected


async def test_the_token_is_not_echoed(site: Site) -> None:
    """The 101 says nothing of the token that came as a subprotocol."""
    async with await site.raw() as client:
        offer = b"Sec-WebSocket-Protocol: signalbox, bearer.nr_live_good\r\n\r\n"
        await client.send(b"GET /ws/ HTTP/1.1\r\n" + UPGRADE + offer)
        head = await client.read_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101")
        assert b"nr_live" not in head
        assert b"bearer" not in head


async def test_a_bad_token_as_a_subprotocol(site: Site) -> None:
    """A page with a bad token can read why it is closed, for its subprotocol is selected all the same."""
    client = await WsClient.connect(site.address, "/ws/", subprotocols=("signalbox", "bearer.wrong"))
    assert client.subprotocol == "signalbox"
    assert (await client.close()).code == 1008


async def ticket(site: Site, key: str = "nr_live_good") -> str:
    """Get a ticket with this key."""
    async with await site.raw() as client:
        reply = await client.request("POST", "/api/v1/tickets", {"X-API-Key": key})
        assert (reply.status, reply.json["expires_in"]) == (200, 30)
        assert reply.headers["cache-control"] == "no-store"
        return str(reply.json["ticket"])


async def test_a_ticket_opens_one_socket(site: Site) -> None:
    """A ticket opens a socket as its key would, once; after that it is as bad as one that never was."""
    first = await ticket(site)
    async with await site.websocket(f"/ws/?ticket={first}") as client:
        assert await client.receive() == "events k1"
    for used in (first, "tkt_never"):
        client = await site.websocket(f"/ws/?ticket={used}")
        assert (await client.close()).code == 1008
    assert (site.services.counters.tickets, site.services.counters.bad_credentials) == (1, 2)


async def test_another_scheme_is_no_credential(site: Site) -> None:
    """What a proxy or a browser adds to `Authorization` keeps no ticket out, and no page from its close."""
    basic = {"Authorization": "Basic bnI6bGl2ZQ=="}
    async with await WsClient.connect(site.address, f"/ws/?ticket={await ticket(site)}", basic) as client:
        assert await client.receive() == "events k1"
    nobody = await WsClient.connect(site.address, "/ws/", basic)
    assert (await nobody.close()).code == 1008
    async with await site.raw() as rest:
        reply = await rest.request("POST", "/api/v1/auth/verify", basic, b'{"api_key": "nr_live_good"}')
        assert (reply.status, reply.json["key_id"]) == (200, "k1")
        reply = await rest.request("GET", "/api/v1/orgs/acme/status", basic)
        assert (reply.status, reply.error_code) == (401, "api_key_missing")


async def test_a_ticket_is_for_the_event_socket_alone(site: Site) -> None:
    """No other door opens with a ticket."""
    with pytest.raises(Rejected) as refused:
        await site.websocket(f"/ws/control/acme?ticket={await ticket(site)}")
    assert refused.value.status == 401


@pytest.mark.parametrize(
    ("method", "headers", "status", "code"),
    [
        ("POST", {}, 401, "api_key_missing"),
        ("POST", {"X-API-Key": "wrong"}, 401, "api_key_unknown"),
        ("POST", {"X-API-Key": "nr_live_expired"}, 401, "api_key_expired"),
        ("GET", GOOD, 405, "method_not_allowed"),
    ],
)
async def test_no_ticket(site: Site, method: str, headers: dict[str, str], status: int, code: str) -> None:
    """Only a good key gets a ticket."""
    async with await site.raw() as client:
        reply = await client.request(method, "/api/v1/tickets", headers)
        assert (reply.status, reply.error_code) == (status, code)


async def test_tickets_while_the_store_is_away(site: Site) -> None:
    """Without a store there is neither a ticket nor a way to use one: 503 with Retry-After."""
    unused = await ticket(site)
    site.ledger.away = True
    with pytest.raises(Rejected) as refused:
        await site.websocket(f"/ws/?ticket={unused}")
    assert (refused.value.status, refused.value.headers["retry-after"]) == (503, "2")


@pytest.mark.parametrize("config", [Config(limits=Limits(tickets_per_second=0.5))])
async def test_too_many_tickets(site: Site, config: Config) -> None:
    """A key gets ten seconds' worth of tickets at once, then is told when to ask again; other keys are not held."""
    for _ in range(5):
        await ticket(site)
    async with await site.raw() as client:
        reply = await client.request("POST", "/api/v1/tickets", GOOD)
        assert (reply.status, reply.error_code, reply.headers["retry-after"]) == (429, "rate_limited", "2")
    await ticket(site, "nr_live_other")


@pytest.mark.parametrize("config", [Config(events=Events(allowed_origins=("https://app.example.com",)))])
async def test_origins(site: Site, config: Config) -> None:
    """A page of an allowed origin, and what is no browser, get in; any other page is refused with 403."""
    target = "/ws/?token=nr_live_good"
    for headers in ({"Origin": "https://app.example.com"}, {"Origin": "https://App.Example.com"}, {}):
        async with await WsClient.connect(site.address, target, headers) as client:
            assert await client.receive() == "events k1"
    for origin in ("https://evil.example.com", "http://app.example.com", "https://app.example.com:8443", "null"):
        with pytest.raises(Rejected) as refused:
            await WsClient.connect(site.address, target, {"Origin": origin})
        assert (refused.value.status, refused.value.error_code) == (403, "origin_not_allowed")
    async with await WsClient.connect(site.address, "/ws/control/acme", {**GOOD, "Origin": "https://x"}) as agent:
        assert str(await agent.receive()).startswith("control")


async def test_any_origin_by_default(site: Site) -> None:
    """Where no origins are configured a page of any origin may come with a token."""
    async with await WsClient.connect(site.address, "/ws/?token=nr_live_good", {"Origin": "https://x"}) as client:
        assert await client.receive() == "events k1"


def test_a_credential_is_not_shown() -> None:
    """What an event socket is opened with is in no log and no traceback."""
    assert "hidden" not in repr((EventCredential(token="hidden"), EventCredential(ticket="hidden")))
