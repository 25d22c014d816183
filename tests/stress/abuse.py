"""Clients that are broken, slow or mean, all at the same time, while everybody else is served."""

from pathlib import Path

import trio

from tests.stress.browser import PING, PONG
from tests.stress.hostile import MALFORMED, Stalled, bad_token, connect, half_open, malformed, slow_head
from tests.stress.process import OUTBOX_BYTES
from tests.stress.stage import Stage
from tests.stress.world import FLOOD
from tests.support.lean_client import LeanClient

__all__ = ["abuse"]

EVENT_BYTES = 100_000
PORTION = 2
"""Events that are published at once: together they fit into an outbox, so that nobody is closed who reads."""

SPARE_BYTES = 2 << 20
"""What kernels might keep of a connection beyond their bounds."""


async def abuse(stage: Stage) -> None:
    """Everything that is broken or means it, with browsers that come and go among their channels."""
    world, count = stage.world, stage.plan.hostile
    async with trio.open_nursery() as hostile:
        for _ in range(stage.plan.slow_heads):
            hostile.start_soon(slow_head, world.place, stage.ledger)
        for number in range(count):
            hostile.start_soon(bad_token, world.place, number, stage.ledger)
        for _ in range(stage.plan.half_open):
            hostile.start_soon(half_open, world.place, world.good_token, "workflow:0", stage.ledger)
        for what in MALFORMED:
            for _ in range(max(1, count // 4)):
                hostile.start_soon(malformed, world.place, world.good_token, what, stage.ledger)
        hostile.start_soon(_silent_agents, stage)
        await _stall(stage)
        await _churn(stage)
    stage.say("abuse is over")


async def _silent_agents(stage: Stage) -> None:
    """Control sockets that answer no ping are called silent, and kept."""
    world, clients = stage.world, list[LeanClient]()
    async with trio.open_nursery() as nursery:

        async def come(number: int) -> None:
            clients.append(await world.agents[number % len(world.agents)].twin())

        for number in range(stage.plan.hostile):
            nursery.start_soon(come, number)

    async def silent() -> bool:
        return await stage.metric("control_silent") >= stage.plan.hostile

    await stage.until("agents that answer no ping are called silent", silent)
    for client in clients:
        await client.kill()


async def _stall(stage: Stage) -> None:
    """Flood those who do not read with more than kernels keep: they are closed, and nobody else notices."""
    world, count = stage.world, stage.plan.hostile
    before = await stage.metric("slow_consumers_total")
    frozen, wake = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        stalled = [
            await nursery.start(Stalled(world.place, world.good_token, stage.ledger).run, FLOOD, frozen, wake)
            for _ in range(count)
        ]
        witness = await connect(world.place, world.good_token)
        await witness.send(b'{"type":"subscribe","channel":"%b"}' % FLOOD.encode())
        await witness.receive()  # the channel has subscribers already: what is published before the answer passes it by
        frozen.set()
        wanted = kept_of_one_write(max(stalled, default=0)) // (PORTION * EVENT_BYTES) + 1
        seen = 0
        with trio.move_on_after(stage.plan.patience):
            while seen < wanted:
                await trio.to_thread.run_sync(_flood, stage)
                await _read_portion(witness)
                seen += 1
        stage.expect("what who reads sees of the flood", seen, wanted)
        await witness.end()
        wake.set()

    async def counted() -> bool:
        return await stage.metric("slow_consumers_total") - before >= count

    await stage.until("slow consumers are counted", counted)
    stage.expect("slow consumers", await stage.metric("slow_consumers_total") - before, count)
    stage.say(f"{count} slow readers are gone, after {wanted * PORTION * EVENT_BYTES >> 20} MiB")


def kept_of_one_write(receive_buffer: int) -> int:
    """Return how many bytes for a client that reads nothing can be on the way at most: in two kernels and an outbox."""
    send_buffer = int(Path("/proc/sys/net/ipv4/tcp_wmem").read_text().split()[2])
    return send_buffer + receive_buffer + OUTBOX_BYTES + SPARE_BYTES


def _flood(stage: Stage) -> None:
    payload = b'{"type":"flood","channel":"%b","data":"%b"}' % (FLOOD.encode(), b"x" * EVENT_BYTES)
    with stage.world.publisher.client.pipeline(transaction=False) as pipeline:
        for _ in range(PORTION):
            pipeline.publish(FLOOD, payload)
        pipeline.execute()


async def _read_portion(witness: LeanClient) -> None:
    seen = 0
    while seen < PORTION:
        for message in await witness.receive():
            if message == PING:
                await witness.send(PONG)
            else:
                seen += 1


async def _churn(stage: Stage) -> None:
    """A tenth of the browsers leave channels and come back to them, again and again."""
    dice, healthy = stage.world.dice, stage.world.healthy
    churning = dice.sample(healthy, max(1, len(healthy) // 10))
    async with trio.open_nursery() as nursery:
        for browser in churning:
            nursery.start_soon(browser.wander, stage.plan.wanderings, dice)
    await stage.until_connected("those who wandered have their channels again", churning)
