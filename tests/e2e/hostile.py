"""What the tests of hostile input share: sockets of both kinds, and bystanders who must not notice anything."""

import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.conftest import Valkey
from tests.e2e.broker import Broker, Key
from tests.support import WsClient

SOCKETS = ("events", "control")


async def connect(broker: Broker, key: Key, kind: str) -> WsClient:
    """Open an event socket or a control session (past its snapshot)."""
    if kind == "events":
        return await broker.browser(key)
    path = f"/ws/control/{key.organization_id}"
    client = await WsClient.connect(broker.address, path, {"X-API-Key": key.api_key})
    assert (await client.receive_json())["type"] == "initial_state"
    return client


@asynccontextmanager
async def bystanders(broker: Broker, store: Valkey, key: Key) -> AsyncIterator[None]:
    """Keep sockets of both kinds open meanwhile, and insist that they, and new ones, are served afterwards."""
    org = key.organization_id
    channel = f"workflow:{org}-bystander"
    async with await broker.browser(key) as browser, await connect(broker, key, "control") as agent:
        await browser.send_json(type="subscribe", channel=channel)
        await browser.receive_type("subscribed")
        yield
        store.client.publish(channel, '{"type": "still here"}')
        assert (await browser.receive_json())["type"] == "still here"
        change = {"type": "state_change", "workflow_id": "bystander", "state": "Flagged"}
        store.client.publish(f"control:{org}", json.dumps(change))
        while (await agent.receive_type("state_change"))["workflow_id"] != "bystander":
            pass  # what was not acknowledged is sent again
        for kind in SOCKETS:
            await (await connect(broker, key, kind)).close()


def frame(opcode: int, payload: bytes, *, final: bool = True, masked: bool = True, reserved: int = 0) -> bytes:
    """One WebSocket frame, as badly formed as wanted."""
    head = bytes([(0x80 if final else 0) | reserved | opcode])
    mark = 0x80 if masked else 0
    if len(payload) < 126:
        head += bytes([mark | len(payload)])
    elif len(payload) < 65536:
        head += bytes([mark | 126]) + struct.pack(">H", len(payload))
    else:
        head += bytes([mark | 127]) + struct.pack(">Q", len(payload))
    return head + (bytes(4) if masked else b"") + payload
