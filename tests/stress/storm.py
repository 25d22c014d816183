"""Crowds at the door: all at once, more than there are places, and some of them with a key that is being revoked."""

import math
from collections.abc import Sequence
from statistics import median

import trio

from broker.store.drive import run_sync
from broker.store.keys import revoke_key
from broker.store.layout import Layout
from tests.soak.agent import Agent
from tests.stress.browser import Browser
from tests.stress.hostile import connect
from tests.stress.stage import Stage
from tests.stress.world import REVOKED_KEY
from tests.support.lean_client import LeanClient, Refused

__all__ = ["full_house", "revocation", "storm"]

DONE = frozenset({4401, 401, 1008})
"""What a client whose key was revoked may be told: in its session, or when it comes again."""

REREAD_SECONDS = 10.0
"""How often a broker reads the keys of its sessions again, besides."""

HEAD_START = 10
"""Turns that every browser has had before the first agent comes."""


async def storm(stage: Stage, crowd: trio.Nursery) -> None:
    """Everybody at once, agents last, with not one key in the cache."""
    world, began = stage.world, trio.current_time()
    before = await stage.metric("key_lookups_total")
    for browser in world.browsers:
        crowd.start_soon(browser.run)
    for _ in range(HEAD_START):
        await trio.lowlevel.checkpoint()
    agents_began = trio.current_time()
    for agent in world.agents:
        crowd.start_soon(agent.run)
    await stage.until_connected("all are in", [*world.agents, *world.browsers])
    took = trio.current_time() - began
    lookups = int(await stage.metric("key_lookups_total") - before)
    keys = stage.plan.browser_keys + stage.plan.agents
    if lookups > keys * (1 + math.ceil(took / REREAD_SECONDS)):
        stage.ledger.complain(f"{lookups} look-ups of {keys} keys")
    browsers, agents = _waits(world.browsers, began), _waits(world.agents, agents_began)
    if stage.plan.crowded and agents["longest"] > browsers["median"]:
        stage.ledger.complain(f"in the storm agents waited for {agents}, browsers for {browsers}")
    stage.figures["storm"] = {
        "clients": len(world.browsers) + len(world.agents),
        "seconds until all are in": round(took, 1),
        "seconds until a browser is let in": browsers,
        "seconds until an agent is let in": agents,
        "key look-ups": lookups,
        "keys": keys,
    }
    stage.say(f"the storm: {stage.figures['storm']}")


def _waits(clients: Sequence[Browser | Agent], began: float) -> dict[str, float]:
    waits = sorted(client.opened - began for client in clients)
    return {"shortest": round(waits[0], 2), "median": round(median(waits), 2), "longest": round(waits[-1], 2)}


async def full_house(stage: Stage) -> None:
    """When no place is left agents wait for one, and no browser gets any before them; each place is given once."""
    world, count = stage.world, stage.plan.late
    leaving = list(world.visitors)
    late: list[LeanClient] = []

    async def agent_comes(agent: Agent) -> None:
        late.append(await agent.twin())

    async def browser_is_refused() -> None:
        try:
            client = await LeanClient.connect(
                world.place.address, f"/ws/?token={world.good_token}", tls=world.place.tls, patience=stage.plan.patience
            )
        except Refused as refused:
            stage.counts[f"late browsers refused with {refused.status}"] += 1
        else:
            stage.ledger.complain("a browser was let in where there is no room")
            late.append(client)

    async def refuse_browsers() -> None:
        async with trio.open_nursery() as browsers:
            for _ in range(count):
                browsers.start_soon(browser_is_refused)

    async def all_held() -> bool:
        return await stage.metric("connections_held") == count

    async with trio.open_nursery() as agents:
        for agent in world.agents[:count]:
            agents.start_soon(agent_comes, agent)
        await stage.until("late agents wait for a place", all_held)
        await refuse_browsers()
        stage.expect("late agents that are in before there is room", len(late), 0)
        for visitor in leaving[:count]:
            await visitor.leave()
    stage.expect("late agents that are in when as many have left", len(late), count)
    await refuse_browsers()
    for visitor in leaving[count:]:
        await visitor.leave()
    late += [await connect(world.place, world.good_token) for _ in range(count)]
    for client in late:
        await client.kill()
    stage.expect("late browsers refused", stage.counts["late browsers refused with 503"], 2 * count)
    stage.say(
        f"no room: {count} agents waited and were let in, {2 * count} browsers were refused before and after them"
    )


async def revocation(stage: Stage, crowd: trio.Nursery) -> None:
    """Revoke a key while a third of all lose their connections and come again."""
    world = stage.world
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

    await stage.until("those with the revoked key are out", over)
    for browser in revoked:
        if browser.ends not in DONE:
            stage.ledger.complain(f"{browser.name}, whose key was revoked, ended with {browser.ends}")
    stage.nobody_else_is_out()
    await stage.until_connected("all others are back", world.healthy)
    stage.figures["revoked"] = len(revoked)
    stage.say(f"a key was revoked: {len(revoked)} browsers are out, {len(losing)} lost their connection meanwhile")
