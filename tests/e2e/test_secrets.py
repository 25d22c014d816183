"""No credential ever gets into a log, however it was presented, whether it was good, and whatever became of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Valkey
from tests.e2e.broker import Installation
from tests.support import RawClient, Rejected, WsClient
from tests.support.process import BrokerProcess, broker_process

WRONG = "hunter2-is-no-key"


@pytest.fixture
def installation(valkey: Valkey, tmp_path: Path) -> Installation:
    """Return an installation that logs all it can, and admits pages of one origin."""
    return Installation.write(
        tmp_path,
        redis={"url": valkey.url},
        log={"level": "debug"},
        events={"allowed_origins": ["https://good.example"]},
        limits={"tickets_per_second": 0.1, "close_timeout": 1},
    )


@pytest.fixture
def broker(installation: Installation) -> Iterator[BrokerProcess]:
    """Return a running broker."""
    with broker_process(installation.config) as process:
        yield process


async def knock(broker: BrokerProcess, target: str, subprotocols: tuple[str, ...] = (), **headers: str) -> None:
    """Open a WebSocket, be it refused or closed at once, and close it."""
    host, _, port = broker.where.rpartition(":")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        client = await WsClient.connect((host, int(port)), target, named, subprotocols=subprotocols)
    except Rejected:
        return
    await client.close()


async def test_no_credential_is_logged(installation: Installation, broker: BrokerProcess) -> None:
    """Tokens, keys, tickets and signatures, in URLs, headers, subprotocols and bodies, are nowhere in a debug log."""
    key = installation.add_key("acme")
    host, _, port = broker.where.rpartition(":")
    tickets = []
    async with await RawClient.connect((host, int(port))) as client:
        for _ in range(2):
            reply = await client.request("POST", "/api/v1/tickets", {"X-API-Key": key.api_key})
            tickets.append(reply.json.get("ticket", ""))
        for api_key in (key.api_key, WRONG):
            body = f'{{"api_key": "{api_key}"}}'.encode()
            await client.request("POST", "/api/v1/auth/verify", body=body)
            await client.request("POST", "/api/v1/auth/verify", {"X-API-Key": api_key}, b'{"api_key": "another"}')
            await client.request("GET", f"/api/v1/status/wf?token={api_key}", {"Authorization": f"Bearer {api_key}"})
            await client.request("GET", f"/nothing?token={api_key}", {"Authorization": f"Basic {api_key}"})
    assert tickets[1] == ""
    for token in (key.api_key, WRONG, WRONG, WRONG, WRONG):
        await knock(broker, f"/ws/?token={token}")
        await knock(broker, "/ws/", Authorization=f"Bearer {token}")
        await knock(broker, "/ws/", ("signalbox", f"bearer.{token}"))
        await knock(broker, f"/ws/?ticket={token}")
        await knock(broker, f"/ws/?token={token}", Origin="https://evil.example")
        await knock(broker, "/ws/control/acme", X_API_Key=token)
        await knock(broker, "/ws/control/other", X_API_Key=token)
        await knock(broker, "/ws/control/acme", X_API_Key=token, X_Signature=WRONG * 2, X_Signature_Timestamp="1")
    for _ in range(2):
        await knock(broker, f"/ws/?ticket={tickets[0]}")
    async with await RawClient.connect((host, int(port))) as client:
        await client.send(f"GET /ws/?token={key.api_key} HTTP/1.1\r\nno header {WRONG}\r\n\r\n".encode())
        assert (await client.reply()).status == 400
    installation.run("keys", "rotate", key.key_id)
    installation.run("keys", "revoke", key.key_id)
    assert broker.stop() == 0
    log = "".join(broker.log)
    assert log.count('"kind": "events"') == 8  # opened and closed: three ways to show a token, and the ticket
    for secret in (key.api_key, key.secret_key, WRONG, tickets[0]):
        assert secret not in log
