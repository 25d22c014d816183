"""What `signalbox status` says when a broker hears nothing, and after one has died."""

import json
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from broker.store.drive import run_sync
from broker.store.keys import add_key
from tests.faults.agent import Agent
from tests.faults.process import BrokerChild
from tests.faults.proxy import Proxy
from tests.faults.store import Store
from tests.faults.waiting import until
from tests.faults.world import LAYOUT
from tests.support.ports import free_port
from tests.support.raw_client import RawClient

ORG = "acme"
COMMAND = (sys.executable, "-m", "broker")


@attrs.frozen(eq=False)
class Scene:
    """One broker behind a proxy, and one agent of it."""

    store: Store
    proxy: Proxy
    broker: BrokerChild
    agent: Agent

    async def command(self, *args: str) -> str:
        """Run a command and return all that it printed."""
        whole = [*COMMAND, *args, "--config", str(self.broker.config)]
        done = await trio.run_process(whole, capture_stdout=True, capture_stderr=True, check=False)
        return (done.stdout + done.stderr).decode()

    async def status(self, kind: str) -> list[dict[str, Any]]:
        """Return the records of one type that `status --json` prints."""
        printed = await self.command("status", ORG, "--json")
        records = [json.loads(line) for line in printed.splitlines()]
        return [record for record in records if record["type"] == kind]

    async def ready(self) -> tuple[int, str]:
        """Ask for the broker's readiness."""
        async with await RawClient.connect(("127.0.0.1", self.broker.port)) as client:
            reply = await client.request("GET", "/health/ready")
        return reply.status, reply.body.decode()


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """Return a scene in which the agent is connected."""
    store = Store(tmp_path, free_port())
    await store.start()
    try:
        async with trio.open_nursery() as parts:
            proxy = Proxy(free_port(), store.port)
            await parts.start(proxy.run)
            broker = BrokerChild("broker", tmp_path, free_port(), proxy.port)
            parts.start_soon(broker.run)
            await broker.listening()
            key = run_sync(store.client, add_key(LAYOUT, ORG))
            agent = Agent("agent", key, [broker], random.Random(1), "plain")
            parts.start_soon(agent.run)
            yield Scene(store, proxy, broker, agent)
            parts.cancel_scope.cancel()
    finally:
        store.close()


@pytest.mark.slow
async def test_a_blind_broker(scene: Scene) -> None:
    """A broker that is cut off from control messages says so in its readiness and in `status`, until it hears again."""

    async def blind() -> bool:
        brokers = await scene.status("broker")
        return any(each["info"]["blind_since"] is not None for each in brokers)

    async def sees() -> bool:
        return not await blind()

    with trio.fail_after(30):
        await until(sees)
        scene.proxy.refuse(["control"])
        await scene.proxy.cut(["control"])
        await until(blind)
        assert "hears nothing from Redis since" in await scene.command("status", ORG)
        code, answer = await scene.ready()
        assert (code, "redis_control_down" in answer) == (503, True)
        scene.proxy.refuse(())
        await until(sees)
        assert (await scene.ready())[0] == 200


@pytest.mark.slow
async def test_a_dead_broker(scene: Scene) -> None:
    """A broker that dies, and the agents that it held, are out of `status` within 30 s."""

    async def present() -> bool:
        return bool(await scene.status("agent"))

    async def absent() -> bool:
        return not await present()

    with trio.fail_after(40):
        await until(present)
        died = time.monotonic()
        scene.broker.end(signal.SIGKILL)
        assert await present()
        await until(absent)
        assert time.monotonic() - died < 30
        assert "No broker is running" in await scene.command("status", ORG)
