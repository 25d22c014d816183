"""Breaks things as planned, and mends them again."""

import signal
import time
from functools import partial

import trio

from broker.store.snapshot import Snapshot
from tests.faults.plan import Fault
from tests.faults.proxy import LINKS
from tests.faults.publishing import Unheard
from tests.faults.waiting import until
from tests.faults.world import World

FLOOD = 90
PADDING = 20_000


class Injector:
    """Carries out the faults of a plan, each at its time; several may last at once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ledger = world.ledger
        self._store = trio.Lock()
        self._flooding = trio.Lock()
        self._losing = trio.Lock()  # held while data get lost: then no broker may be broken besides

    async def run(self, faults: list[Fault]) -> None:
        """Break everything; returns when all of it is mended."""
        async with trio.open_nursery() as lasting:
            for fault in faults:
                await trio.sleep(fault.after)
                lasting.start_soon(self._break, fault)

    async def _break(self, fault: Fault) -> None:
        world = self._world
        if fault.what.startswith(("broker", "links")):
            async with self._losing:
                pass
        self._ledger.count(fault.what)
        index = fault.target % len(world.brokers)
        broker, proxy = world.brokers[index], world.proxies[index]
        agent = world.agents[fault.target % len(world.agents)]
        browser = world.browsers[fault.target % len(world.browsers)]
        match fault.what:
            case "store restart":
                await self._restart_store(fault.seconds)
            case "store loss" | "store set back":
                await self._lose_store(fault)
            case "broker kill" | "broker restart":
                trouble = self._ledger.trouble(fault.what, broker.name, time.time())
                broker.end(signal.SIGKILL if fault.what == "broker kill" else signal.SIGTERM)
                await trio.sleep(fault.seconds)
                broker.allow()
                await broker.listening()
                trouble.ended = time.time()
            case "broker stall":
                broker.stop()
                await trio.sleep(min(fault.seconds, 3.0))
                broker.go_on()
            case "links cut":
                trouble = self._ledger.trouble(fault.what, broker.name, time.time())
                await proxy.cut(fault.links)
                await trio.sleep(1.0)
                trouble.ended = time.time()
            case "links refused":
                trouble = self._ledger.trouble(fault.what, broker.name, time.time())
                proxy.refuse(LINKS)
                await proxy.cut()
                await trio.sleep(min(fault.seconds, 2.0))
                proxy.refuse(())
                await trio.sleep(2.5)  # the longest pause between two attempts to connect
                trouble.ended = time.time()
            case "links stall":
                trouble = self._ledger.trouble(fault.what, broker.name, time.time())
                proxy.stall(fault.links)
                await trio.sleep(fault.seconds)
                proxy.resume(fault.links)
                await trio.sleep(2.5 if fault.seconds > 4 else 0.0)
                trouble.ended = time.time()
            case "pubsub killed":
                await self._kill_pubsub(fault.target)
            case "silent loss":
                operator = world.operators[fault.target % len(world.operators)]
                await operator.kill(Unheard()) if fault.seconds > 1 else await operator.send(
                    "policy_invalidated", layout=Unheard()
                )
            case "agent stall":
                agent.stall()
                await trio.sleep(max(0.5, fault.seconds))
                agent.go_on()
            case "agent cut":
                await agent.cut()
            case "agent half open":
                agent.abandon()
            case "browser cut":
                await browser.cut()
            case "flood":
                async with self._flooding:
                    await self._flood(fault)

    async def _restart_store(self, seconds: float) -> None:
        async with self._store:
            trouble = self._ledger.trouble("store restart", "", time.time())
            self._world.store.kill()
            await trio.sleep(min(seconds, 2.0))
            await self._world.store.start()
            await trio.sleep(2.5)
            trouble.ended = time.time()

    async def _lose_store(self, fault: Fault) -> None:
        """Lose data at a moment in which every broker and agent knows all of it.

        For what is decided in the very moment of the loss there is no remedy. What is published afterwards is.
        """
        world = self._world
        store = world.store
        async with self._flooding, self._store, self._losing:
            if fault.what == "store set back":
                await trio.to_thread.run_sync(store.keep)
                await trio.sleep(2.0)
            await until(self._mended)
            for operator in world.operators:
                await operator.hold()
            await world.brokers_listen()
            await until(world.level)
            trouble = self._ledger.trouble(fault.what, "", time.time())
            before = await trio.to_thread.run_sync(world.snapshots)
            keys = await trio.to_thread.run_sync(world.read_keys)
            store.kill()
            self._ledger.losses.append(time.time())
            (store.lose if fault.what == "store loss" else store.set_back)()
            await store.start()
            await trio.to_thread.run_sync(world.write_keys, keys)
            for operator in world.operators:
                operator.go_on()
            with trio.move_on_after(15):
                await until(partial(self._restored, before))
            await trio.sleep(2.5)
            trouble.ended = time.time()

    async def _mended(self) -> bool:
        return all(trouble.over for trouble in self._ledger.troubles)

    async def _restored(self, before: list[Snapshot]) -> bool:
        now = await trio.to_thread.run_sync(self._world.snapshots)
        return all(found.epoch not in (None, then.epoch) for found, then in zip(now, before, strict=True))

    async def _kill_pubsub(self, target: int) -> None:
        """Publish a pause and have all subscribers lose their connections before they can read of it."""
        world = self._world
        operator = world.operators[target % len(world.operators)]
        trouble = self._ledger.trouble("pubsub killed", "", time.time())
        await operator.send("state_change", operator.dice.choice(operator.workflows), "Paused", cutting=True)
        await trio.sleep(2.0)
        trouble.ended = time.time()

    async def _flood(self, fault: Fault) -> None:
        """Stall one agent and send its organization more than its socket and its outbox hold."""
        world = self._world
        agent = world.agents[fault.target % len(world.agents)]
        operator = next(each for each in world.operators if each.org == agent.org)
        agent.stall()
        for number in range(FLOOD):
            if number == FLOOD * 3 // 4:
                # a kill that is lifted again while it waits: it must arrive all the same, or a snapshot in its place
                await operator.send("state_change", f"bulk-{fault.target}", "Killed")
                await operator.send("state_change", f"bulk-{fault.target}", "Normal", forced=True)
            elif number % 3:
                await operator.send("state_change", f"bulk-{number % 40}", "Flagged", padding=PADDING)
            else:
                await operator.send("policy_invalidated")
        await trio.sleep(fault.seconds)
        agent.go_on()
