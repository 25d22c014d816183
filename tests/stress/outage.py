"""The store goes away and comes back; and the broker itself is drained, while a crowd comes in."""

import contextlib
from functools import partial

import redis
import trio

from tests.stress.stage import Stage

__all__ = ["drain_in_the_storm", "store_goes_away"]


async def store_goes_away(stage: Stage) -> None:
    """Kill the store, and start it again: nobody is closed, and everybody is told."""
    world, healthy = stage.world, stage.world.healthy
    resyncs = {browser: browser.resyncs for browser in healthy}
    ended = _ends(stage)
    world.store.kill()

    async def links_are(up: float) -> bool:
        found = await world.broker.metrics()
        return all(value == up for name, value in found.items() if name.startswith("signalbox_redis_link_up"))

    await stage.until("the broker notices that the store is gone", partial(links_are, 0.0))
    await trio.sleep(stage.plan.outage)
    await world.store.start()
    await stage.until("the links are up", partial(links_are, 1.0))

    async def all_told() -> bool:
        return all(browser.resyncs > resyncs[browser] for browser in healthy)

    await stage.until("every browser is told of the gap", all_told)
    stage.expect("sockets that were closed when the store went", _ends(stage) - ended, 0)
    stage.say("the store was gone and is back")


def _ends(stage: Stage) -> int:
    return sum(count for what, count in stage.counts.items() if "closed with" in what)


async def drain_in_the_storm(stage: Stage, crowd: trio.Nursery) -> None:
    """Everybody comes back at once; with half of them in, the broker is told to stop, and the next one starts."""
    world, counts = stage.world, stage.counts
    told_before = counts["browsers closed with 1012"], counts["agents closed with 1012"]
    going_away = counts["browsers closed with 1001"] + counts["agents closed with 1001"]
    for browser in world.browsers:
        if browser.ends is None and browser not in world.visitors:
            browser.gone = False
            crowd.start_soon(browser.run)
    for agent in world.agents:
        crowd.start_soon(agent.run)
    half = len(world.healthy) // 2

    async def half_are_in() -> bool:
        return sum(browser.connected.is_set() for browser in world.healthy) >= half

    await stage.until("half of the browsers are back", half_are_in)
    world.broker.terminate()
    stage.expect("exit status of the drained broker", await world.broker.ended(stage.plan.patience), 0)
    told = counts["browsers closed with 1012"] - told_before[0]
    if told < half:
        stage.ledger.complain(f"{told} browsers were told that the broker restarts, and {half} were in")
    world.start_broker()
    await world.broker.listening(stage.plan.patience)
    with contextlib.suppress(redis.exceptions.RedisError):
        world.publisher.client.ping()
    await stage.until_connected("everybody is back", [*world.healthy, *world.agents])
    stage.nobody_else_is_out()
    going_away = counts["browsers closed with 1001"] + counts["agents closed with 1001"] - going_away
    stage.expect("sockets told 1001 in place of 1012", going_away, 0)
    stage.figures["drained"] = {
        "browsers told 1012": told,
        "agents told 1012": counts["agents closed with 1012"] - told_before[1],
        "told 1001": going_away,
    }
    stage.say(f"drained in the storm: {stage.figures['drained']}, and everybody is back")
