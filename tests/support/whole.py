"""A whole broker in this process: everything that the daemon builds, on a real Valkey, listening on loopback."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

from broker.config import Admin, Config
from broker.daemon.build import Broker, build
from broker.daemon.links import build_links
from broker.daemon.startup import StoreCheck
from broker.http.listener import listen
from broker.link.address import Address
from broker.observe import Counters
from tests.support.ws_client import WsClient


@attrs.frozen(eq=False)
class Whole:
    """What a test sees of it."""

    broker: Broker
    address: tuple[str, int]

    @property
    def counters(self) -> Counters:
        """What it counts."""
        return self.broker.counters

    async def browser(self, api_key: str) -> WsClient:
        """Open an event socket."""
        return await WsClient.connect(self.address, f"/ws/?token={api_key}")

    async def agent(self, api_key: str, org: str) -> WsClient:
        """Open a control socket."""
        return await WsClient.connect(self.address, f"/ws/control/{org}", {"X-API-Key": api_key})


@asynccontextmanager
async def whole_broker(url: str, config: Config, *, durable: bool = False) -> AsyncIterator[Whole]:
    """Run a broker for the length of the block.

    Args:
        url: of its Redis.
        config: all but `[redis]` and `[admin]`, which is off.
        durable: its Redis should have an append-only file.
    """
    config = attrs.evolve(config, redis=attrs.evolve(config.redis, url=url), admin=Admin(bind=""))
    counters = Counters()
    links = build_links(Address.parse(url))
    with listen("127.0.0.1:0") as listener:
        async with trio.open_nursery() as process:
            for link in links.all:
                await process.start(link.run)
            broker = build(config, links, counters, durable=durable)
            await StoreCheck(broker).wait_briefly()
            for worker in broker.workers:
                await process.start(worker)
            await process.start(broker.door.run, [listener])
            yield Whole(broker, listener.getsockname())
            broker.door.stop_accepting()
            process.cancel_scope.cancel()
