"""Everything that a run consists of, and whether all of it agrees."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import redis
import trio

from broker.store.drive import run_sync
from broker.store.keys import NewKey, add_key
from broker.store.layout import Layout
from broker.store.replies import items, text
from broker.store.snapshot import Snapshot, read_snapshot
from tests.faults.agent import Agent
from tests.faults.browser import Browser
from tests.faults.ledger import Ledger
from tests.faults.process import BrokerChild
from tests.faults.proxy import Proxy
from tests.faults.publishing import Newsroom, Operator
from tests.faults.store import Store
from tests.support.ports import free_port

LAYOUT = Layout()
ORGS = ("acme", "umbrella")
WORKFLOWS = 5
AGENTS_PER_ORG = 5
BROWSERS = 3
CHANNEL = "workflow:news"
OUTBOXES = (65536, 1 << 20)
"""One broker overflows, and sends snapshots to slow agents; the other has room, and collapses what waits."""

REPLAYED = ("policy_invalidated", "approval_resolved", "key_rotated")


@attrs.frozen(eq=False)
class World:
    """The parts of a run."""

    store: Store
    proxies: list[Proxy]
    brokers: list[BrokerChild]
    agents: list[Agent]
    browsers: list[Browser]
    operators: list[Operator]
    newsroom: Newsroom
    ledger: Ledger

    async def brokers_listen(self) -> None:
        """Wait until both brokers accept connections."""
        for broker in self.brokers:
            await broker.listening()

    async def level(self) -> bool:
        """Tell whether every agent is connected and knows exactly what the store says, and all that came besides."""
        if not all(agent.connected for agent in self.agents):
            return False
        try:
            snapshots = await trio.to_thread.run_sync(self.snapshots)
        except redis.exceptions.RedisError:
            return False
        return all(self.knows(agent, snapshots[ORGS.index(agent.org)]) for agent in self.agents)

    async def all_level(self) -> bool:
        """Tell whether every agent and every browser knows all that there is."""
        try:
            return await self.level() and await trio.to_thread.run_sync(self.browsers_level)
        except redis.exceptions.RedisError:
            return False

    def knows(self, agent: Agent, snapshot: Snapshot) -> bool:
        """Tell whether an agent is level with the store."""
        stored = {name: (each.workflow.version, each.workflow.state.value) for name, each in snapshot.workflows.items()}
        known = {name: what for name, what in agent.known.items() if what[0] > 0}
        return stored == known and not self.unheard(agent)

    def unheard(self, agent: Agent) -> list[str]:
        """Return what was applied since an agent first had a snapshot, is in no snapshot, and did not reach it."""
        first = next((session.snapshots[0][0] for session in agent.sessions if session.snapshots), float("inf"))
        received = {message_id for session in agent.sessions for message_id in session.received}
        return [
            deed.message_id
            for deed in self.ledger.deeds
            if deed.org == agent.org
            and deed.kind in REPLAYED
            and deed.status == "applied"
            and deed.began > first
            and deed.message_id not in received
        ]

    def browsers_level(self) -> bool:
        """Tell whether every browser has the newest event."""
        offsets = self.offsets()
        last = offsets[-1] if offsets else None
        return all(browser.last == last for browser in self.browsers)

    def offsets(self) -> list[str]:
        """Read the offsets of all events that the store keeps, oldest first."""
        reply = self.store.client.execute_command("XRANGE", LAYOUT.history(CHANNEL), "-", "+")  # type: ignore[no-untyped-call]
        return [text(items(entry)[0]) for entry in items(reply)]

    def snapshots(self) -> list[Snapshot]:
        """Read what the store says of each organization."""
        return [run_sync(self.store.client, read_snapshot(LAYOUT, org)) for org in ORGS]

    def read_keys(self) -> dict[bytes, bytes]:
        """Read all API keys, as whoever provisions them has them."""
        client = self.store.client
        names = [*client.scan_iter("signalbox:key:*"), *client.scan_iter("signalbox:keyid:*")]
        names += [*client.scan_iter("signalbox:*:keys"), b"signalbox:schema"]
        return {name: value for name in names if (value := client.dump(name)) is not None}

    def write_keys(self, keys: dict[bytes, bytes]) -> None:
        """Provision them again."""
        for name, value in keys.items():
            self.store.client.restore(name, 0, value, replace=True)


@asynccontextmanager
async def running_world(seed: int, folder: Path, pause: float) -> AsyncIterator[World]:
    """Build everything and run it until the end of the block.

    Args:
        seed: who acts how.
        folder: for data, configurations and logs.
        pause: seconds between two messages of an operator, on average.
    """
    store = Store(folder, free_port())
    await store.start()
    ledger = Ledger()
    proxies = [Proxy(free_port(), store.port) for _ in range(2)]
    brokers = [
        BrokerChild(
            f"broker-{number}",
            folder,
            free_port(),
            proxy.port,
            outbox=OUTBOXES[number % 2],
            io_uring_from=number % 2,  # one uses it for every channel, the other for none
        )
        for number, proxy in enumerate(proxies, 1)
    ]
    agents = [
        Agent(f"{org}-{number}", _key(store, org, number), brokers, _dice(seed, org, number), ways[number])
        for org in ORGS
        for ways in [("signed", "plain", "signed", "plain", "never")]
        for number in range(AGENTS_PER_ORG)
    ]
    viewer = run_sync(store.client, add_key(LAYOUT, "viewers"))
    browsers = [
        Browser(f"browser-{number}", CHANNEL, viewer, brokers, _dice(seed, "browser", number))
        for number in range(BROWSERS)
    ]
    operators = [Operator(org, _workflows(), store, ledger, _dice(seed, org, -1), pause) for org in ORGS]
    newsroom = Newsroom(CHANNEL, store, ledger, _dice(seed, "news", 0), pause)
    world = World(store, proxies, brokers, agents, browsers, operators, newsroom, ledger)
    try:
        async with trio.open_nursery() as parts:
            for proxy in proxies:
                await parts.start(proxy.run)
            for broker in brokers:
                parts.start_soon(broker.run)
            await world.brokers_listen()
            for agent in agents:
                parts.start_soon(agent.run)
            for browser in browsers:
                parts.start_soon(browser.run)
            yield world
            parts.cancel_scope.cancel()
    finally:
        store.close()


def _workflows() -> list[str]:
    return [f"wf-{number}" for number in range(WORKFLOWS)]


def _key(store: Store, org: str, number: int) -> NewKey:
    """Every other agent is bound to a workflow."""
    bound = f"wf-{number}" if number % 2 else None
    return run_sync(store.client, add_key(LAYOUT, org, workflow_id=bound))


def _dice(*parts: object) -> random.Random:
    return random.Random(" ".join(map(str, parts)))
