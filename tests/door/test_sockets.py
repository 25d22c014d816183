"""Who may open a WebSocket, what the others are told, and that the bytes arrive."""

import time

import attrs
import pytest
import trio
import trio.testing

from broker.config import Config, Control
from broker.door import Kind
from protocol.signing import body_hash, signature
from tests.door.conftest import NOW, SECRET, Site
from tests.support import RawClient, Rejected, WsClient

EVENTS = "/ws/?token=nr_live_good"
UPGRADE = (
    b"Host: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def signed(api_key: str, at: int = NOW, secret: str = SECRET) -> dict[str, str]:
    """The headers of a signed handshake."""
    return {
        "X-API-Key": api_key,
        "X-Signature": signature(secret, at, api_key, body_hash(b"")),
        "X-Signature-Timestamp": str(at),
    }


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/ws/?token=nr_live_good", {}),
        ("/ws?token=nr_live_good", {}),
        ("/ws/?a=b&token=nr%5Flive%5Fgood", {}),
        ("/ws/", {"Authorization": "Bearer nr_live_good"}),
        ("/ws/", {"authorization": "bearer  nr_live_good"}),
        ("/ws/?token=nr_live_good", {"Authorization": "Basic bnI6bGl2ZQ=="}),
    ],
)
async def test_event_socket(site: Site, target: str, headers: dict[str, str]) -> None:
    """A good token opens an event socket, from the query or the Authorization header."""
    async with await WsClient.connect(site.address, target, headers) as client:
        assert await client.receive() == "events k1"
        await client.send("hello")
        assert await client.receive() == "hello"
        assert len(site.door.peers(Kind.EVENTS)) == 1


async def test_ends_are_counted(site: Site) -> None:
    """Every WebSocket that ends is counted by the code that it ended with, whoever said it, once it is over."""
    async with await site.websocket("/ws/?token=nr_live_good") as opened:
        assert await opened.receive() == "events k1"
        site.door.peers(Kind.EVENTS)[0].close_soon(1012, "restarting")
        assert (await opened.wait_closed()).code == 1012
    async with await site.websocket("/ws/?token=wrong") as turned_away:
        assert (await turned_away.wait_closed()).code == 1008
    dropped = await WsClient.connect(site.address, EVENTS)
    assert await dropped.receive() == "events k1"
    await dropped.kill()
    counted = site.services.counters.closed
    while sum(counted.values()) < 3:
        await trio.lowlevel.checkpoint()
    assert counted == {1012: 1, 1008: 1, 1006: 1}


async def test_event_socket_on_a_unix_socket(site: Site) -> None:
    """A WebSocket works over a unix socket, too."""
    async with await WsClient.connect(site.path, EVENTS) as client:
        assert await client.receive() == "events k1"
        assert site.door.peers(Kind.EVENTS)[0].remote == "unix"


@pytest.mark.parametrize("target", ["/ws/?token=wrong", "/ws/", "/ws/?token=", "/ws/?token=nr_live_expired"])
async def test_bad_token(site: Site, target: str) -> None:
    """A bad token is told by close code 1008 three times, and refused with 401 the fourth time."""
    for _ in range(3):
        client = await site.websocket(target)
        closed = await client.close()
        assert (closed.code, closed.reason) == (1008, "Invalid or missing token")
    with pytest.raises(Rejected) as refused:
        await site.websocket(target)
    assert refused.value.status == 401
    assert refused.value.headers["www-authenticate"] == "Bearer"
    async with await site.websocket(EVENTS) as good:
        assert await good.receive() == "events k1"


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": "nr_live_good"},
        {"Authorization": "Bearer nr_live_good"},
        {"X-API-Key": "nr_live_good", "Authorization": "Bearer nr_live_good"},
        {"X-API-Key": "nr_live_good", "Authorization": "Basic bnI6bGl2ZQ=="},
        {"X-API-Key": "nr_live_good", "Authorization": "Bearer"},
        signed("nr_live_good"),
        signed("nr_live_good", NOW - 299),
    ],
)
async def test_control_socket(site: Site, headers: dict[str, str]) -> None:
    """A good key opens its organization's control socket; a signature is checked when it is there."""
    async with await WsClient.connect(site.address, "/ws/control/acme", headers) as client:
        assert await client.receive() == f"control k1 nr_live_good acme {'X-Signature' in headers}"
        assert [peer.remote.partition(":")[0] for peer in site.door.peers(Kind.CONTROL)] == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("target", "headers", "status", "code"),
    [
        ("/ws/control/acme", {}, 401, "api_key_missing"),
        ("/ws/control/acme", {"X-API-Key": "wrong"}, 401, "api_key_unknown"),
        ("/ws/control/acme", {"X-API-Key": "nr_live_expired"}, 401, "api_key_expired"),
        ("/ws/control/acme", {"Authorization": "Basic bnI6bGl2ZQ=="}, 401, "api_key_missing"),
        (
            "/ws/control/acme",
            {"X-API-Key": "nr_live_good", "Authorization": "Bearer other"},
            401,
            "api_key_mismatch",
        ),
        ("/ws/control/acme", {"X-API-Key": "nr_live_signed"}, 401, "signature_missing"),
        ("/ws/control/acme", signed("nr_live_good", secret="00" * 32), 401, "signature_wrong"),
        ("/ws/control/acme", signed("nr_live_good", NOW - 301), 401, "signature_stale"),
        ("/ws/control/acme", {"X-API-Key": "nr_live_other"}, 403, "wrong_organization"),
        ("/ws/control/-no-id-", {"X-API-Key": "nr_live_good"}, 404, "not_found"),
        ("/ws/control/a%2Fb", {"X-API-Key": "nr_live_good"}, 404, "not_found"),
        ("/ws/control/", {"X-API-Key": "nr_live_good"}, 404, "not_found"),
        ("/ws/control/acme", {"X-API-Key": "nr_live_gööd"}, 400, "bad_request"),
    ],
)
async def test_control_refused(site: Site, target: str, headers: dict[str, str], status: int, code: str) -> None:
    """Who may not open a control socket is told so, before the 101 and in JSON."""
    with pytest.raises(Rejected) as refused:
        await WsClient.connect(site.address, target, headers)
    assert (refused.value.status, refused.value.error_code) == (status, code)
    assert site.services.counters.refused[code] == 1
    assert site.door.state.slots.taken == 0


@pytest.mark.parametrize(
    ("config", "admitted"),
    [
        (Config(control=Control(handshake_signature="required")), ["nr_live_good"]),
        (Config(control=Control(handshake_signature="optional")), ["nr_live_good", "nr_live_signed"]),
    ],
)
async def test_a_key_overrides_the_setting(site: Site, config: Config, admitted: list[str]) -> None:
    """Whether an upgrade must be signed is the key's to say, then the setting's; who signs always gets in."""
    unsigned, refusals = [], []
    for api_key in ("nr_live_good", "nr_live_signed", "nr_live_strict"):
        async with await WsClient.connect(site.address, "/ws/control/acme", signed(api_key)) as client:
            assert str(await client.receive()).startswith("control")
        try:
            await (await site.websocket("/ws/control/acme", X_API_Key=api_key)).close()
            unsigned.append(api_key)
        except Rejected as refused:
            refusals.append(refused.error_code)
    assert (unsigned, set(refusals)) == (admitted, {"signature_missing"})


async def test_refused_upgrade_leaves_the_connection_usable(site: Site) -> None:
    """After a refused upgrade the connection still speaks HTTP."""
    async with await site.raw() as client:
        await client.send(b"GET /ws/control/acme HTTP/1.1\r\n" + UPGRADE + b"\r\n")
        assert (await client.reply()).status == 401
        assert (await client.request("GET", "/health/live")).status == 200


async def test_frames_in_one_segment_with_the_upgrade(site: Site) -> None:
    """Frames that arrive together with the upgrade request are held back and then read, none is lost."""
    frame = bytes([0x81, 0x80 | 5, 1, 2, 3, 4]) + bytes(a ^ b for a, b in zip(b"hello", (1, 2, 3, 4, 1), strict=True))
    async with await site.raw() as client:
        await client.send(b"GET /ws/?token=nr_live_good HTTP/1.1\r\n" + UPGRADE + b"\r\n" + frame * 3)
        reply = await client.reply()
        assert reply.status == 101
        assert reply.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert await client.read_exactly(11) == b"\x81\x09events k1"
        assert await client.read_exactly(21) == b"\x81\x05hello" * 3


async def test_upgrade_behind_pipelined_requests(site: Site) -> None:
    """A connection may bring plain requests first, and become a WebSocket then."""
    async with await site.raw() as client:
        plain = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
        await client.send(plain + plain + b"GET /ws/?token=nr_live_good HTTP/1.1\r\n" + UPGRADE + b"\r\n")
        assert [(await client.reply()).status for _ in range(3)] == [200, 200, 101]
        assert await client.read_exactly(11) == b"\x81\x09events k1"


@pytest.mark.parametrize(
    ("target", "status"),
    [(b"/ws/?token=nr_live_good", 426), (b"/ws/control/acme", 426), (b"/health/live", 200)],
)
async def test_no_upgrade_by_http_1_0(site: Site, target: bytes, status: int) -> None:
    """An HTTP/1.0 request is taken without its Upgrade header: it is plain, and gets the end of the connection."""
    async with await site.raw() as client:
        await client.send(b"GET " + target + b" HTTP/1.0\r\nX-API-Key: nr_live_good\r\n" + UPGRADE + b"\r\n")
        assert (await client.reply()).status == status
        assert await client.read_to_end() == b""


async def test_byte_by_byte_upgrade(site: Site) -> None:
    """An upgrade that arrives in pieces of one byte is an upgrade."""
    async with await site.raw() as client:
        for byte in b"GET /ws/?token=nr_live_good HTTP/1.1\r\n" + UPGRADE + b"\r\n":
            await client.send(bytes([byte]))
        assert (await client.reply()).status == 101


async def test_per_key_limit_on_events(site: Site) -> None:
    """The fourth socket of a key is opened, the fifth is refused with 429 until one of them ends."""
    clients = [await site.websocket(EVENTS) for _ in range(4)]
    with pytest.raises(Rejected) as refused:
        await site.websocket(EVENTS)
    assert (refused.value.status, refused.value.headers["retry-after"]) == (429, "5")
    for client in clients:
        await client.close()
    async with await site.websocket(EVENTS) as again:
        assert await again.receive() == "events k1"


async def test_control_upgrade_waits_for_a_place(site: Site) -> None:
    """A control upgrade at the limit is held, and opened as soon as a place is free."""
    clients = [await site.websocket(EVENTS) for _ in range(4)]
    opened: list[str | bytes] = []

    async def connect() -> None:
        async with await site.websocket("/ws/control/acme", X_API_Key="nr_live_good") as client:
            opened.append(await client.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(connect)
        while not site.door.state.slots.waiting:
            await trio.lowlevel.checkpoint()
        await clients.pop().close()
    assert opened == ["control k1 nr_live_good acme False"]
    for client in clients:
        await client.kill()


async def test_control_upgrade_is_refused_in_the_end(site: Site) -> None:
    """A control upgrade for which no place becomes free is refused with 429 after `upgrade_hold`."""
    clients = [await site.websocket(EVENTS) for _ in range(4)]
    started = time.monotonic()
    with pytest.raises(Rejected) as refused:
        await site.websocket("/ws/control/acme", X_API_Key="nr_live_good")
    assert refused.value.status == 429
    assert time.monotonic() - started >= 0.5
    for client in clients:
        await client.kill()


@pytest.mark.parametrize("config", [Config(control=Control(upgrade_hold=5))])
async def test_control_upgrade_waits_for_the_store(site: Site, config: Config) -> None:
    """A control upgrade is held while the store is away, and opened when it is back."""
    site.ledger.away = True
    async with trio.open_nursery() as nursery:

        async def come_back() -> None:
            while not site.ledger.asked:
                await trio.lowlevel.checkpoint()
            site.ledger.away = False

        nursery.start_soon(come_back)
        async with await site.websocket("/ws/control/acme", X_API_Key="nr_live_good") as client:
            assert await client.receive() == "control k1 nr_live_good acme False"


async def test_store_away(site: Site) -> None:
    """While the store is away everybody is told to come back: 503 with Retry-After."""
    site.ledger.away = True
    for target in (EVENTS, "/ws/control/acme"):
        with pytest.raises(Rejected) as refused:
            await site.websocket(target, X_API_Key="nr_live_good")
        assert (refused.value.status, refused.value.error_code) == (503, "unavailable")
        assert refused.value.headers["retry-after"] == "2"
    async with await site.raw() as client:
        reply = await client.request("POST", "/api/v1/auth/verify", body=b'{"api_key": "nr_live_good"}')
        assert (reply.status, reply.headers["retry-after"]) == (503, "2")


async def test_drain(site: Site, nursery: trio.Nursery) -> None:
    """A draining door is not ready and ends idle connections; sessions stay, and nobody who comes is refused."""
    async with await site.websocket(EVENTS) as session, await site.raw() as idle, await site.raw() as busy:
        assert await session.receive() == "events k1"
        assert (await idle.request("GET", "/health/live")).status == 200
        await busy.send(b"GET /health/ready HTTP/1.1\r\n")
        while len(site.door.state.conversations) < 2:
            await trio.lowlevel.checkpoint()
        site.door.begin_drain()
        assert await idle.read_to_end() == b""
        await busy.send(b"Host: a\r\n\r\n")
        reply = await busy.reply()
        assert (reply.status, reply.json["problems"], reply.headers["connection"]) == (503, ["draining"], "close")
        async with await site.websocket(EVENTS) as late:
            assert await late.receive() == "events k1"
        await session.send("still here")
        assert await session.receive() == "still here"


async def test_stop_accepting(site: Site) -> None:
    """After `stop_accepting` newcomers stay in the backlog, and sessions live on."""
    async with await site.websocket(EVENTS) as session:
        assert await session.receive() == "events k1"
        site.door.stop_accepting()
        await trio.testing.wait_all_tasks_blocked()
        async with await RawClient.connect(site.address) as late:
            await late.send(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            await session.send("still here")
            assert await session.receive() == "still here"
            assert site.services.counters.accepted == 1


@pytest.mark.parametrize(
    ("target", "kind"), [(b"/ws/?token=nr_live_good", Kind.EVENTS), (b"/ws/control/acme", Kind.CONTROL)]
)
async def test_late_session(site: Site, target: bytes, kind: Kind) -> None:
    """Whoever becomes a session after everybody was sent away is told 1012, too, and no session begins."""
    async with await site.raw() as late:
        await late.send(b"GET " + target + b" HTTP/1.1\r\nX-API-Key: nr_live_good\r\n")
        while not site.door.state.conversations:
            await trio.lowlevel.checkpoint()
        site.door.stop_accepting()
        assert site.door.send_away(kind) == []
        await late.send(UPGRADE + b"\r\n")
        assert (await late.reply()).status == 101
        assert await late.read_exactly(14) == b"\x88\x0c\x03\xf4restarting"
        await late.send(b"\x88\x82\0\0\0\0\x03\xf4")
        assert await late.read_to_end() == b""
    await site.door.closed.wait()
    assert site.services.counters.closed == {1012: 1}


async def test_browsers_are_sent_away_before_agents(site: Site) -> None:
    """While nobody but browsers is sent away, an agent still has its session."""
    site.door.send_away(Kind.EVENTS)
    async with await site.websocket("/ws/control/acme", X_API_Key="nr_live_good") as agent:
        assert str(await agent.receive()).startswith("control k1")
    async with await site.websocket(EVENTS) as browser:
        assert (await browser.wait_closed()).code == 1012


async def test_reconfigure(site: Site) -> None:
    """New limits hold for those that come after; who is there stays."""
    clients = [await site.websocket(EVENTS) for _ in range(2)]
    limits = attrs.evolve(site.services.config.limits, max_connections_per_key=2)
    site.services.config = attrs.evolve(site.services.config, limits=limits)
    site.door.reconfigure()
    with pytest.raises(Rejected) as refused:
        await site.websocket(EVENTS)
    assert refused.value.status == 429
    for client in clients:
        assert await client.receive() == "events k1"
        await client.close()
