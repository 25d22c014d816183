"""A control plane in this process, on a real Valkey, with the smallest door that lets a real WebSocket in."""

import itertools
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import structlog
import trio

from broker.config import Config, Control
from broker.control.carried import CarriedSession
from broker.control.plane import ControlPlane, build_control
from broker.control.session import run_control_session
from broker.keys import Admission, KeyCache, admit
from broker.link.address import Address
from broker.link.link import Link
from broker.link.subscriptions import SubscriptionLink
from broker.observe import Counters
from broker.publisher import Publisher
from broker.store import keys
from broker.store.drive import run_sync
from broker.store.key_record import KeyRecord
from broker.store.layout import Layout
from broker.wire.limits import PeerLimits
from broker.wire.opening import open_peer
from broker.wire.plain import PlainWire
from protocol.signing import EMPTY_BODY_HASH, signature
from protocol.upgrade import switching_protocols
from tests.conftest import Valkey
from tests.support.ws_client import WsClient

ORG = "acme"
LAYOUT = Layout()
_DOORS = itertools.count()


@attrs.define(eq=False)
class Clock:
    """A wall clock that tests can move."""

    offset: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset


@attrs.frozen(eq=False)
class Broker:
    """What a test sees of it."""

    plane: ControlPlane
    command: Link
    counters: Counters
    config: Config
    door: str
    clock: Clock
    carried: dict[str, CarriedSession] = attrs.field(factory=dict)
    """By API key: what the next session of that key is taken up from, as though another process had left it."""

    async def connect(
        self, api_key: str, secret: str | None = None, *, answer_pings: bool = True, org: str = ORG
    ) -> WsClient:
        """Open a control session; the handshake is signed if a secret is given."""
        headers = {"X-API-Key": api_key}
        if secret is not None:
            now = int(self.clock())
            headers["X-Signature"] = signature(secret, now, api_key, EMPTY_BODY_HASH)
            headers["X-Signature-Timestamp"] = str(now)
        return await WsClient.connect(self.door, f"/ws/control/{org}", headers, answer_pings=answer_pings)


@asynccontextmanager
async def running_broker(
    valkey: Valkey, broker_id: str = "b1", limits: PeerLimits | None = None, **settings: Any
) -> AsyncIterator[Broker]:
    """Run a control plane for the length of the block; `settings` are keys of `[control]`."""
    config = Config(control=Control(**{"ping_interval": 20.0, "handshake_signature": "optional", **settings}))
    address = Address.parse(valkey.url)
    counters = Counters()
    clock = Clock()
    command = Link(address, f"command-{broker_id}")
    key_cache = KeyCache(LAYOUT, command.call, counters, clock)

    async def on_push(batch: list[list[bytes]]) -> None:
        await plane.feed.on_push(batch)

    def on_restored() -> None:
        plane.feed.on_restored()

    control = SubscriptionLink(address, f"control-{broker_id}", on_push=on_push, on_restored=on_restored)
    plane = build_control(
        config=config,
        layout=LAYOUT,
        link=control,
        call=command.call,
        keys=key_cache,
        counters=counters,
        log=structlog.get_logger("test"),
        broker_id=broker_id,
        clock=clock,
    )
    peer_limits = limits or PeerLimits(
        outbox_bytes=config.limits.outbox_bytes, max_message_bytes=65536, max_fragments=64, close_timeout=1.0
    )
    path = str(valkey.socket.with_name(f"door-{next(_DOORS)}"))
    listener = trio.socket.socket(socket.AF_UNIX)
    await listener.bind(path)
    listener.listen(1024)
    with listener:
        async with trio.open_nursery() as links:
            await links.start(command.run)
            await links.start(control.run)
            async with trio.open_nursery() as broker:
                await broker.start(plane.run)
                running = Broker(plane, command, counters, config, path, clock)
                broker.start_soon(_accept, listener, running, peer_limits, broker)
                yield running
                broker.cancel_scope.cancel()
            links.cancel_scope.cancel()


def add_key(valkey: Valkey, workflow_id: str | None = None, org: str = ORG, **more: Any) -> tuple[str, KeyRecord]:
    """Make a key; returns the API key and its record."""
    made = run_sync(valkey.client, keys.add_key(LAYOUT, org, workflow_id=workflow_id, **more))
    return made.api_key, made.record


def publisher(valkey: Valkey) -> Publisher:
    """A publisher on the test's server."""
    return Publisher(valkey.client)


async def _accept(
    listener: trio.socket.SocketType, broker: Broker, limits: PeerLimits, connections: trio.Nursery
) -> None:
    while True:
        connection, _ = await listener.accept()
        raw = socket.socket(fileno=connection.detach())
        connections.start_soon(_serve, raw, broker, limits)


async def _serve(raw: socket.socket, broker: Broker, limits: PeerLimits) -> None:
    services = broker.plane.services
    wire = PlainWire(raw)
    head = b""
    while b"\r\n\r\n" not in head:
        head += await wire.receive_some()
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    api_key = headers["x-api-key"]
    record = await services.keys.lookup(api_key)
    admission = admit(
        record,
        api_key=api_key,
        now=broker.clock(),
        signature=headers.get("x-signature"),
        timestamp=headers.get("x-signature-timestamp"),
        max_age=300,
    )
    if not isinstance(admission, Admission):
        await wire.send_all(f"HTTP/1.1 {admission.status} No\r\nContent-Length: 0\r\n\r\n".encode())
        wire.close()
        return
    answer = switching_protocols(headers["sec-websocket-key"])
    async with open_peer(wire, answer, limits) as peer:
        carried = broker.carried.pop(api_key, None)
        await run_control_session(
            peer,
            admission.record,
            api_key,
            admission.record.organization_id,
            services,
            secret=admission.secret,
            carried=carried,
        )
