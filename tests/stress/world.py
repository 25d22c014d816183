"""Everybody who takes part in a stress run."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
import trustme

from broker.publisher import Publisher
from broker.store.drive import run_sync
from broker.store.keys import NewKey, add_key
from broker.store.layout import Layout
from tests.faults.store import Store
from tests.soak.agent import Agent
from tests.soak.ledger import Ledger
from tests.soak.publishing import Newsroom, Operator
from tests.stress.browser import Browser, Place
from tests.stress.plan import Plan
from tests.stress.process import CONFIG, OUTBOX_BYTES, BrokerProcess, client_context
from tests.support.ports import free_port

__all__ = ["World", "build_world"]

FLOOD = "workflow:flood"
VISITORS_KEY, REVOKED_KEY = 0, 1


@attrs.define(eq=False)
class World:
    """The parts of a run; `broker` is the one that lives now."""

    plan: Plan
    folder: Path
    config: str
    ports: tuple[int, int]
    store: Store
    place: Place
    ledger: Ledger
    dice: random.Random
    keys: list[NewKey]
    browsers: list[Browser]
    visitors: list[Browser]
    agents: list[Agent]
    newsroom: Newsroom
    operator: Operator
    publisher: Publisher
    broker: BrokerProcess

    @property
    def revoked(self) -> list[Browser]:
        """Those whose key will be revoked."""
        return [each for each in self.browsers if each.token == self.keys[REVOKED_KEY].api_key]

    @property
    def healthy(self) -> list[Browser]:
        """Those that stay to the end."""
        return [each for each in self.browsers if not each.gone and each.ends is None]

    @property
    def good_token(self) -> str:
        """A key for hostile clients, which is never revoked."""
        return self.keys[-1].api_key

    def start_broker(self) -> None:
        """Begin a new life of the broker."""
        self.broker = BrokerProcess(self.folder, self.config, *self.ports)


@asynccontextmanager
async def build_world(plan: Plan, seed: int) -> AsyncIterator[World]:
    """Start a store and a broker, and make everybody, without connecting anybody."""
    dice, ledger = random.Random(seed), Ledger()
    with TemporaryDirectory(prefix="signalbox-stress-") as name:
        folder = Path(name)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        certificate = authority.issue_cert("localhost")
        certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
        certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
        port, admin, redis_port = free_port(), free_port(), free_port()
        store = Store(folder, redis_port)
        await store.start()
        config = CONFIG.format(
            port=port, admin=admin, redis=redis_port, folder=folder, ping=plan.ping, pong=plan.pong, head=plan.head,
            connections=plan.max_connections, outbox=OUTBOX_BYTES, patience=plan.patience,
        )  # fmt: skip
        broker = BrokerProcess(folder, config, port, admin)
        place = Place(("127.0.0.1", port), client_context(folder / "ca.pem"), plan.patience)
        url = f"redis://127.0.0.1:{redis_port}"
        try:
            with Publisher(url, actor="stress", history={}) as publisher:
                keys, browsers, agents = _people(plan, publisher, place, ledger, dice)
                world = World(
                    plan, folder, config, (port, admin), store, place, ledger, dice, keys, browsers,
                    [each for each in browsers if each.token == keys[VISITORS_KEY].api_key], agents,
                    Newsroom(plan.load, url, ledger), Operator(plan.load, url, ledger, random.Random(dice.random())),
                    publisher, broker,
                )  # fmt: skip
                try:
                    yield world
                finally:
                    world.broker.kill()
        finally:
            broker.kill()
            store.kill()


def _people(
    plan: Plan, publisher: Publisher, place: Place, ledger: Ledger, dice: random.Random
) -> tuple[list[NewKey], list[Browser], list[Agent]]:
    layout, client = Layout(), publisher.client
    keys = [run_sync(client, add_key(layout, "viewers", channels=("*",))) for _ in range(plan.browser_keys)]
    channels = plan.load.channel_names
    browsers = []
    for number in range(plan.browsers):
        which = VISITORS_KEY if number < plan.visitors else REVOKED_KEY + number % (plan.browser_keys - 2)
        two = tuple(dice.sample(channels, 2))
        browsers.append(Browser(f"browser {number}", place, keys[which].api_key, two, ledger))
    agents = []
    for number in range(plan.agents):
        org = plan.load.org_names[number % plan.load.orgs]
        key = run_sync(client, add_key(layout, org))
        agents.append(Agent(f"agent {number}", place.address, key, ledger, 15, tls=place.tls, forgiving=True))
    dice.shuffle(browsers)
    return keys, browsers, agents
