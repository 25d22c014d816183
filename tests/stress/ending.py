"""What is known at the end, and what is left when all are gone."""

import attrs
import trio

from broker.store.drive import run_sync
from broker.store.layout import Layout
from broker.store.snapshot import read_snapshot
from tests.stress.process import Held
from tests.stress.stage import Stage
from tests.support.lean_client import LeanClient

__all__ = ["all_leave", "everybody_knows_everything", "no_leak", "nothing_is_left", "warm"]

LOOK_AGAIN = 0.2

STEADY = 3
"""Looks in a row that must see the same before it counts: a socket is counted out before it is closed."""


async def warm(stage: Stage) -> Held:
    """Let a few come and go, so that everything that is made once is made; return what is held then."""
    for _ in range(3):
        client = await _watch(stage, "workflow:warm")
        await client.end()
    for agent in stage.world.agents[: stage.plan.load.orgs]:  # a room is kept for a while when its last agent has left
        client = await agent.twin()
        await client.receive()
        await client.end()
    return await _quiet(stage)


async def everybody_knows_everything(stage: Stage) -> None:
    """Publish once more everywhere; then every browser has every last number and every agent every state."""
    world = stage.world
    await stage.until_connected("everybody is connected", [*world.healthy, *world.agents])
    await world.newsroom.everywhere()
    truth = {}
    for org in stage.plan.load.org_names:
        snapshot = run_sync(world.publisher.client, read_snapshot(Layout(), org))
        truth[org] = {name: (each.workflow.version, each.workflow.state) for name, each in snapshot.workflows.items()}

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

    await stage.until("everybody knows everything", level, behind)
    for each in behind():
        stage.ledger.complain(each)
    stage.say(f"{len(world.healthy)} browsers and {len(world.agents)} agents know everything")


async def all_leave(stage: Stage) -> None:
    """Everybody goes, without a farewell."""
    for browser in stage.world.browsers:
        await browser.leave()
    for agent in stage.world.agents:
        await agent.retire()


async def nothing_is_left(stage: Stage, before: Held, which: str) -> None:
    """When all are gone, the broker holds exactly what it held before they came; and little more memory."""
    after = await _quiet(stage, before)
    stage.expect(f"held after the {which} storm", after.countable, before.countable)
    grown = after.rss_kib - before.rss_kib
    if grown > stage.plan.growth_kib:
        stage.ledger.complain(f"memory grew by {grown} KiB")
    stage.figures[f"{which} broker"] = {
        "before": attrs.asdict(before),
        "after": attrs.asdict(after),
    }
    stage.say(f"all are gone: {after}")


async def no_leak(stage: Stage, before: Held) -> None:
    """What a crowd leaves behind in memory, in holes between what is held, the next one fills."""
    kept = []
    for _ in range(2):
        clients: list[LeanClient] = []

        async def come(channel: str, clients: list[LeanClient] = clients) -> None:
            clients.append(await _watch(stage, channel))

        async with trio.open_nursery() as nursery:
            for number in range(stage.plan.again):
                nursery.start_soon(come, f"workflow:{number % 20}")
        for client in clients:
            await client.kill()
        kept.append((await _quiet(stage, before)).rss_kib)
    stage.figures["memory after two more crowds"] = kept
    if kept[1] - kept[0] > stage.plan.leak_kib:
        stage.ledger.complain(f"memory grew from {kept[0]} to {kept[1]} KiB")


async def _watch(stage: Stage, channel: str) -> LeanClient:
    """Open an event socket and be told that it is subscribed to a channel."""
    place, target = stage.world.place, f"/ws/?token={stage.world.good_token}"
    client = await LeanClient.connect(place.address, target, tls=place.tls, patience=place.patience)
    await client.send(b'{"type":"subscribe","channel":"%b"}' % channel.encode())
    await client.receive()
    return client


async def _quiet(stage: Stage, wanted: Held | None = None) -> Held:
    """Wait until nobody is connected, and what is held is what is wanted, or stays the same for some looks."""
    same = 0
    held = await stage.world.broker.held()
    with trio.move_on_after(stage.plan.patience):
        while True:
            await trio.sleep(LOOK_AGAIN)
            found = await stage.world.broker.held()
            empty = not (found.events + found.control + found.handshakes)
            if wanted is not None and empty and found.countable == wanted.countable:
                return found
            same = same + 1 if empty and found.countable == held.countable else 0
            if wanted is None and same == STEADY:
                return found
            held = found
    return held
