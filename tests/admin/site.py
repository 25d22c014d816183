"""A broker in this process, built as the daemon builds it, and what tests ask of its two listeners."""

import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from broker.config import Admin, Config, Control, Events, Limits, Server
from broker.daemon.build import Broker, build
from broker.daemon.links import build_links
from broker.http import listen
from broker.link.address import Address
from broker.observe import Counters
from broker.store.drive import run_sync
from broker.store.keys import NewKey, add_key
from broker.store.presence import read_presence
from tests.conftest import Valkey
from tests.support import HttpReply, RawClient, WsClient

TOKEN = "7a1f4c9be2d84f6c8e11"
ORG = "acme"
ADMIN_BIND = "127.0.0.1:0"


@attrs.frozen(eq=False)
class Site:
    """A running broker; `public` and `admin` are where it listens."""

    broker: Broker
    valkey: Valkey
    public: tuple[str, int]
    admin: tuple[str, int]

    async def ask(
        self,
        method: str,
        target: str,
        body: object = None,
        *,
        token: str | None = TOKEN,
        headers: dict[str, str] | None = None,
    ) -> HttpReply:
        """Send one request to the admin listener; a `body` that is no bytes is sent as JSON."""
        given = dict(headers or {})
        if token is not None:
            given["Authorization"] = f"Bearer {token}"
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        async with await RawClient.connect(self.admin) as client:
            return await client.request(method, target, given, raw)

    async def metrics(self) -> dict[str, float]:
        """Return all samples, by name and labels as they are written on the page."""
        reply = await self.ask("GET", "/metrics", token=None)
        assert reply.status == 200
        lines = [line for line in reply.body.decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    async def wait_metric(self, sample: str, wanted: Callable[[float], bool]) -> dict[str, float]:
        """Read the metrics until a sample is as wanted, and return them all."""
        with trio.fail_after(10):
            while True:
                found = await self.metrics()
                if wanted(found.get(sample, 0.0)):
                    return found
                await trio.sleep(0.01)

    def key(self, workflow_id: str | None = None, **more: Any) -> NewKey:
        """Make an API key."""
        return run_sync(self.valkey.client, add_key(self.broker.layout, ORG, workflow_id=workflow_id, **more))

    @asynccontextmanager
    async def asking(self, method: str, target: str, answers: list[int]) -> AsyncIterator[None]:
        """Ask while the block runs; the status is in `answers` after it."""

        async def ask() -> None:
            answers.append((await self.ask(method, target)).status)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            yield

    async def wait_present(self, agents: int) -> None:
        """Wait until so many agents are written down as present."""
        with trio.fail_after(10):
            while len(run_sync(self.valkey.client, read_presence(self.broker.layout, ORG))) != agents:  # noqa: ASYNC110  nobody tells
                await trio.sleep(0.01)

    async def agent(self, api_key: str) -> WsClient:
        """Open a control session; its snapshot is still to be received."""
        return await WsClient.connect(self.public, f"/ws/control/{ORG}", {"X-API-Key": api_key})

    async def browser(self, api_key: str, channel: str) -> WsClient:
        """Open an event socket that is subscribed to a channel."""
        client = await WsClient.connect(self.public, f"/ws/?token={api_key}")
        await client.send_json(type="subscribe", channel=channel)
        await client.receive_type("subscribed")
        return client


@asynccontextmanager
async def running_site(
    valkey: Valkey,
    token_file: Path | None,
    bind: str = ADMIN_BIND,
    inherited: Sequence[socket.socket] = (),
    **limits: Any,
) -> AsyncIterator[Site]:
    """Run a broker for the length of the block; `limits` are keys of `[limits]`."""
    config = Config(
        server=Server(bind="127.0.0.1:0"),
        control=Control(handshake_signature="optional"),
        events=Events(namespaces=("workflow",)),
        limits=Limits(close_timeout=1.0, **limits),
        admin=Admin(bind=bind, token_file=token_file),
    )
    counters = Counters()
    links = build_links(Address.parse(valkey.url))
    with listen(config.server.bind) as public:
        async with trio.open_nursery() as nursery:
            for link in links.all:
                await nursery.start(link.run)
            broker = build(config, links, counters)
            broker.admin.inherited = inherited
            for worker in broker.workers:
                await nursery.start(worker)
            await nursery.start(broker.door.run, [public])
            host, _, port = broker.admin.address.rpartition(":")
            yield Site(broker, valkey, public.getsockname()[:2], (host, int(port) if port.isdigit() else 0))
            nursery.cancel_scope.cancel()
