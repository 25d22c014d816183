"""One stress run, from the storm to the last descriptor."""

import contextlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import attrs
import redis
import trio

from broker.store.drive import run_sync
from broker.store.keys import revoke_key
from broker.store.layout import Layout
from broker.store.snapshot import read_snapshot
from tests.soak.agent import Agent
from tests.soak.ledger import Ledger
from tests.stress.browser import PING, PONG, Browser
from tests.stress.hostile import MALFORMED, Stalled, bad_token, half_open, malformed, slow_head
from tests.stress.plan import Plan
from tests.stress.process import Held
from tests.stress.world import FLOOD, REVOKED_KEY, World, build_world
from tests.support.lean_client import LeanClient

__all__ = ["Outcome", "stress"]

DONE = frozenset({4401, 401, 1008})
"""What a client whose key was revoked may be told: in its session, or when it comes again."""

FLOODS, FLOOD_SIZE = 5, 20
"""Events of 100 kB that those who do not read are sent: 10 MB, of which two kernels and an outbox keep about half."""

REREAD_SECONDS = 10.0
"""How often a broker reads the keys of its sessions again, besides."""


@attrs.frozen
class Outcome:
    """What came of a run: `ledger.complaints` is empty if all is well."""

    ledger: Ledger
    figures: dict[str, object]


async def stress(plan: Plan, seed: int, say: Callable[[str], None] = print) -> Outcome:
    """Run everything; `say` is told of each act."""
    began = time.monotonic()
    figures: dict[str, object] = {}
    async with build_world(plan, seed) as world:
        await world.broker.listening(plan.patience)
        act = _Acts(world, figures, say, began)
        before = await act.warm()
        async with trio.open_nursery() as crowd:
            async with act.publishing():
                await act.storm(crowd)
                async with trio.open_nursery() as hostile:
                    act.abuse(hostile)
                    await act.stall()
                    await act.churn()
            await act.store_goes_away()
            async with act.publishing():
                await act.revocation(crowd)
            await act.everybody_knows_everything()
            await act.all_leave()
        await act.nothing_is_left(before, "first")
        await act.no_leak(before)
        if plan.drain:
            async with trio.open_nursery() as crowd:
                await act.drain_in_the_storm(crowd)
                async with act.publishing():
                    await trio.sleep(1)
                await act.everybody_knows_everything()
                await act.all_leave()
            await act.nothing_is_left(before, "second")
        world.broker.terminate()
        act.expect("exit status", await world.broker.ended(plan.patience), 0)
        for line in world.broker.errors():
            world.ledger.complain(f"in the log: {line}")
    figures["seconds"] = round(time.monotonic() - began, 1)
    return Outcome(world.ledger, figures)


class _Acts:
    """The acts of a run; each complains of what did not happen as it must."""

    def __init__(self, world: World, figures: dict[str, object], say: Callable[[str], None], began: float) -> None:
        self.world, self.plan, self.ledger, self.figures = world, world.plan, world.ledger, figures
        self._say, self._began = say, began

    def say(self, text: str) -> None:
        """Tell how far it is."""
        self._say(f"{time.monotonic() - self._began:6.1f} s  {text}")

    def expect(self, what: str, found: object, wanted: object) -> None:
        """Complain unless they are equal."""
        if found != wanted:
            self.ledger.complain(f"{what}: {found!r} in place of {wanted!r}")

    async def until(self, what: str, condition: Callable[[], Awaitable[bool]]) -> None:
        """Wait for a condition; complain if it does not come."""
        with trio.move_on_after(self.plan.patience):
            while not await condition():  # noqa: ASYNC110  it is about other processes
                await trio.sleep(0.05)
            return
        self.ledger.complain(f"in vain: {what}")

    @asynccontextmanager
    async def publishing(self) -> AsyncIterator[None]:
        """Publish for the length of the block."""
        async with trio.open_nursery() as pressure:
            pressure.start_soon(self.world.newsroom.run)
            pressure.start_soon(self.world.operator.run)
            yield
            pressure.cancel_scope.cancel()

    async def warm(self) -> Held:
        """Let a few come and go, so that everything that is made once is made; return what is held then."""
        world = self.world
        for _ in range(3):
            client = await LeanClient.connect(
                world.place.address, f"/ws/?token={world.good_token}", tls=world.place.tls, patience=self.plan.patience
            )
            await client.send(b'{"type":"subscribe","channel":"workflow:warm"}')
            await client.receive()
            await client.end()
        for agent in world.agents[: self.plan.load.orgs]:  # a room is kept for a while when its last agent has left
            client = await agent.twin()
            await client.receive()
            await client.end()
        return await self._quiet()

    async def storm(self, crowd: trio.Nursery) -> None:
        """Everybody at once, agents last, with not one key in the cache and too few places for all."""
        world, began = self.world, trio.current_time()
        before = await world.broker.metrics()
        stayers = [each for each in world.browsers if each not in world.visitors]
        everybody: list[Browser | Agent] = [*world.visitors, *stayers, *world.agents]
        for client in everybody:
            crowd.start_soon(client.run)

        async def full() -> bool:
            held = (await world.broker.metrics())["signalbox_connections_held"]
            return held > 0 or all(agent.connected.is_set() for agent in world.agents)

        await self.until("agents wait for a place, or have one", full)
        for visitor in world.visitors:
            await visitor.leave()
        await self.until("all agents are in", _all_connected(world.agents))
        agents_in = trio.current_time() - began
        await self.until("all browsers are in", _all_connected(stayers))
        took = trio.current_time() - began
        after = await world.broker.metrics()
        lookups = int(after["signalbox_key_lookups_total"] - before["signalbox_key_lookups_total"])
        keys = self.plan.browser_keys + self.plan.agents
        bound = keys * (1 + math.ceil(took / REREAD_SECONDS))
        if lookups > bound:
            self.ledger.complain(f"{lookups} look-ups of {keys} keys")
        self.figures["storm"] = {
            "clients": len(world.browsers) + len(world.agents),
            "agents in after": round(agents_in, 1),
            "all in after": round(took, 1),
            "key look-ups": lookups,
            "keys": keys,
            "upgrades refused for want of room": self.ledger.counts["browsers refused with 503"],
        }
        self.say(f"the storm: {self.figures['storm']}")

    def abuse(self, nursery: trio.Nursery) -> None:
        """Begin with all that is broken or means it."""
        world, count = self.world, self.plan.hostile
        for number in range(count):
            nursery.start_soon(slow_head, world.place, self.ledger)
            nursery.start_soon(bad_token, world.place, number, self.ledger)
        for _ in range(self.plan.half_open):
            nursery.start_soon(half_open, world.place, world.good_token, "workflow:0", self.ledger)
        for what in MALFORMED:
            for _ in range(max(1, count // 4)):
                nursery.start_soon(malformed, world.place, world.good_token, what, self.ledger)
        nursery.start_soon(self._silent_agents)

    async def _silent_agents(self) -> None:
        """Control sockets that answer no ping are called silent, and kept."""
        world, clients = self.world, list[LeanClient]()
        async with trio.open_nursery() as nursery:

            async def connect() -> None:
                agent = world.agents[len(clients) % len(world.agents)]
                clients.append(await agent.twin())

            for _ in range(self.plan.hostile):
                nursery.start_soon(connect)

        async def silent() -> bool:
            return (await world.broker.metrics())["signalbox_control_silent"] >= self.plan.hostile

        await self.until("agents that answer no ping are called silent", silent)
        for client in clients:
            await client.kill()

    async def stall(self) -> None:
        """Flood those who do not read with more than kernels keep: they are closed, and nobody else notices."""
        world = self.world
        stalled = [Stalled(world.place, world.good_token, FLOOD, self.ledger) for _ in range(self.plan.hostile)]
        payload = b'{"type":"flood","channel":"workflow:flood","data":"%b"}' % (b"x" * 100_000)
        async with trio.open_nursery() as nursery:
            for each in stalled:
                nursery.start_soon(each.run)
            for each in stalled:
                await each.ready.wait()

            witness = await LeanClient.connect(
                world.place.address, f"/ws/?token={world.good_token}", tls=world.place.tls, patience=self.plan.patience
            )
            await witness.send(b'{"type":"subscribe","channel":"workflow:flood"}')
            await (
                witness.receive()
            )  # the channel has subscribers already: what is published before the answer passes it by
            seen = 0
            with trio.move_on_after(self.plan.patience):
                for stage in range(1, FLOODS + 1):
                    await trio.to_thread.run_sync(self._flood, payload)
                    while seen < FLOOD_SIZE * stage:
                        for message in await witness.receive():
                            seen += message == payload
                            if message == PING:
                                await witness.send(PONG)
            self.expect("what who reads sees of the flood", seen, FLOODS * FLOOD_SIZE)
            await witness.end()
            for each in stalled:
                each.wake.set()

        async def counted() -> bool:
            return (await world.broker.metrics())["signalbox_slow_consumers_total"] >= len(stalled)

        await self.until("slow consumers are counted", counted)
        self.say("slow readers are gone")

    def _flood(self, payload: bytes) -> None:
        with self.world.publisher.client.pipeline(transaction=False) as pipeline:
            for _ in range(FLOOD_SIZE):
                pipeline.publish(FLOOD, payload)
            pipeline.execute()

    async def churn(self) -> None:
        """A tenth of the browsers leave channels and come back to them, again and again."""
        dice = self.world.dice
        async with trio.open_nursery() as nursery:
            for browser in dice.sample(self.world.healthy, max(1, len(self.world.healthy) // 10)):
                nursery.start_soon(browser.wander, self.plan.wanderings, dice)

    async def store_goes_away(self) -> None:
        """Kill the store, and start it again: nobody is closed, and everybody is told."""
        world, healthy = self.world, self.world.healthy
        resyncs = {browser: browser.resyncs for browser in healthy}
        ended = self._ends()
        world.store.kill()

        async def links_are(up: float) -> bool:
            found = await world.broker.metrics()
            return all(value == up for name, value in found.items() if name.startswith("signalbox_redis_link_up"))

        await self.until("the broker notices that the store is gone", partial(links_are, 0.0))
        await trio.sleep(self.plan.outage)
        await world.store.start()
        await self.until("the links are up", partial(links_are, 1.0))

        async def all_told() -> bool:
            return all(browser.resyncs > resyncs[browser] for browser in healthy)

        await self.until("every browser is told of the gap", all_told)
        self.expect("sockets that were closed when the store went", self._ends() - ended, 0)
        self.say("the store was gone and is back")

    def _ends(self) -> int:
        return sum(count for what, count in self.ledger.counts.items() if "closed with" in what)

    async def revocation(self, crowd: trio.Nursery) -> None:
        """Revoke a key while a third of all lose their connections and come again."""
        world = self.world
        losing = world.dice.sample(world.healthy, len(world.healthy) // 3)
        key_id = world.keys[REVOKED_KEY].record.key_id
        for number, browser in enumerate(losing):
            if number == len(losing) // 2:
                await trio.to_thread.run_sync(run_sync, world.publisher.client, revoke_key(Layout(), key_id))
            await browser.cut()
            if number % 50 == 0:
                await trio.lowlevel.checkpoint()
        revoked = world.revoked

        async def over() -> bool:
            return all(browser.ends is not None for browser in revoked if not browser.gone)

        await self.until("those with the revoked key are out", over)
        for browser in revoked:
            if browser.ends not in DONE:
                self.ledger.complain(f"{browser.name}, whose key was revoked, ended with {browser.ends}")
        self._nobody_else_is_out()
        await self.until("all others are back", _all_connected(world.healthy))
        self.figures["revoked"] = len(revoked)
        self.say(f"a key was revoked: {len(revoked)} browsers are out, {len(losing)} lost their connection meanwhile")

    def _nobody_else_is_out(self) -> None:
        """Complain of everybody who was closed for good without having had a revoked key."""
        revoked = self.world.revoked
        for browser in self.world.browsers:
            if browser.ends is not None and browser not in revoked:
                self.ledger.complain(f"{browser.name} ended with {browser.ends}")

    async def everybody_knows_everything(self) -> None:
        """Publish once more everywhere; then every browser has every last number and every agent every state."""
        world = self.world
        await self.until("everybody is connected", _all_connected([*world.healthy, *world.agents]))
        await world.newsroom.everywhere()
        truth = {}
        for org in self.plan.load.org_names:
            snapshot = run_sync(world.publisher.client, read_snapshot(Layout(), org))
            truth[org] = {
                name: (each.workflow.version, each.workflow.state) for name, each in snapshot.workflows.items()
            }

        def behind() -> list[str]:
            numbers = world.newsroom.numbers
            return [
                f"{browser.name} is at {last} of {numbers[channel]} of {channel}"
                for browser in world.healthy
                for channel, last in browser.last.items()
                if last != numbers[channel]
            ] + [f"{agent.name} is not level" for agent in world.agents if agent.known != truth[agent.org]]

        async def level() -> bool:
            return not behind()

        await self.until("everybody knows everything", level)
        for each in behind():
            self.ledger.complain(each)
        self.say(f"{len(world.healthy)} browsers and {len(world.agents)} agents know everything")

    async def all_leave(self) -> None:
        """Everybody goes, half of them without a farewell."""
        for browser in self.world.browsers:
            await browser.leave()
        for agent in self.world.agents:
            await agent.retire()

    async def nothing_is_left(self, before: Held, which: str) -> None:
        """When all are gone, the broker holds exactly what it held before they came; and little more memory."""
        after = await self._quiet(before)
        self.expect(f"held after the {which} storm", after.countable, before.countable)
        grown = after.rss_kib - before.rss_kib
        if grown > self.plan.growth_kib:
            self.ledger.complain(f"memory grew by {grown} KiB")
        self.figures[f"{which} broker"] = {
            "before": attrs.asdict(before),
            "after": attrs.asdict(after),
        }
        self.say(f"all are gone: {after}")

    async def no_leak(self, before: Held) -> None:
        """What a crowd leaves behind in memory, in holes between what is held, the next one fills."""
        kept = []
        for _ in range(2):
            clients: list[LeanClient] = []
            async with trio.open_nursery() as nursery:
                for number in range(self.plan.again):
                    nursery.start_soon(self._come, f"workflow:{number % 20}", clients)
            for client in clients:
                await client.kill()
            kept.append((await self._quiet(before)).rss_kib)
        self.figures["memory after two more crowds"] = kept
        if kept[1] - kept[0] > self.plan.leak_kib:
            self.ledger.complain(f"memory grew from {kept[0]} to {kept[1]} KiB")

    async def _come(self, channel: str, clients: list[LeanClient]) -> None:
        place = self.world.place
        target = f"/ws/?token={self.world.good_token}"
        client = await LeanClient.connect(place.address, target, tls=place.tls, patience=place.patience)
        await client.send(b'{"type":"subscribe","channel":"%b"}' % channel.encode())
        await client.receive()
        clients.append(client)

    async def _quiet(self, wanted: Held | None = None) -> Held:
        """Wait until nobody is connected, and what is held is what is wanted, or has stopped changing."""
        held = await self.world.broker.held()
        with trio.move_on_after(30):
            while True:
                await trio.sleep(0.3)
                found = await self.world.broker.held()
                goal = held if wanted is None else wanted
                if not (found.events + found.control + found.handshakes) and found.countable == goal.countable:
                    return found
                held = found
        return held

    async def drain_in_the_storm(self, crowd: trio.Nursery) -> None:
        """Everybody comes back at once; with half of them in, the broker is told to stop, and the next one starts."""
        world = self.world
        counts = self.ledger.counts
        closed = counts["browsers closed with 1012"], counts["agents closed with 1012"]
        going_away = counts["browsers closed with 1001"]
        for browser in world.browsers:
            if browser.ends is None and browser not in world.visitors:
                browser.gone = False
                crowd.start_soon(browser.run)
        for agent in world.agents:
            crowd.start_soon(agent.run)
        half = len(world.healthy) // 2

        async def half_are_in() -> bool:
            return sum(browser.connected.is_set() for browser in world.healthy) >= half

        await self.until("half of the browsers are back", half_are_in)
        world.broker.terminate()
        self.expect("exit status of the drained broker", await world.broker.ended(self.plan.patience), 0)
        told = counts["browsers closed with 1012"] - closed[0], counts["agents closed with 1012"] - closed[1]
        if told[0] < half:
            self.ledger.complain(f"{told[0]} browsers were told that the broker restarts, and {half} were in")
        world.start_broker()
        await world.broker.listening(self.plan.patience)
        with contextlib.suppress(redis.exceptions.RedisError):
            world.publisher.client.ping()
        await self.until("everybody is back", _all_connected([*world.healthy, *world.agents]))
        self._nobody_else_is_out()
        self.figures["drained"] = {
            "browsers told 1012": told[0],
            "browsers told 1001": counts["browsers closed with 1001"] - going_away,
            "agents told 1012": told[1],
        }
        self.say(f"drained in the storm: {self.figures['drained']}, and everybody is back")


def _all_connected(clients: Sequence[Browser | Agent]) -> Callable[[], Awaitable[bool]]:
    async def connected() -> bool:
        return all(client.connected.is_set() for client in clients)

    return connected
