"""One run, from its seed to its figures."""

import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from tests.faults.injector import Injector
from tests.faults.judge import Judge, figures_of
from tests.faults.plan import draw
from tests.faults.waiting import until
from tests.faults.world import World, running_world

SETTLE_SECONDS = 45.0
SPARE_SECONDS = 180.0
"""What a run may take besides, on a machine that is busy with other things."""

QUIET_SECONDS = 2.5
"""How long after the last fault the earliest verdict may be: by then acks that do not come are given up."""


@attrs.frozen
class Result:
    """What came of a run: its violations, none if all is well; its figures; where its logs are, if they are kept."""

    seed: int
    violations: list[str]
    figures: dict[str, Any]
    folder: Path | None


async def run(seed: int, seconds: float, pause: float = 0.1) -> Result:
    """Break things for `seconds`, mend all, and judge; `pause` is between two messages of an operator."""
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix=f"signalbox-faults-{seed}-"))
    async with _bounded(seconds), running_world(seed, folder, pause) as world:
        await _first_connections(world)
        async with trio.open_nursery() as publishing:
            for operator in world.operators:
                publishing.start_soon(operator.run)
            publishing.start_soon(world.newsroom.run)
            await Injector(world).run(list(draw(seed, seconds)))
            for operator in world.operators:
                await operator.hold()
            publishing.cancel_scope.cancel()
        settled = await _settle(world)
        judge = Judge(world)
        await trio.to_thread.run_sync(judge.judge)
        figures = {**figures_of(world, judge, began), "settled after": round(settled, 1)}
    if judge.violations:
        (folder / "violations.txt").write_text("\n".join(judge.violations))
        return Result(seed, judge.violations, figures, folder)
    shutil.rmtree(folder, ignore_errors=True)
    return Result(seed, [], figures, None)


@asynccontextmanager
async def _bounded(seconds: float) -> AsyncIterator[None]:
    with trio.fail_after(seconds + SPARE_SECONDS):
        yield


async def _first_connections(world: World) -> None:
    with trio.move_on_after(SETTLE_SECONDS):
        await until(world.level)


async def _settle(world: World) -> float:
    """Wait until all agree, for a bounded time and for some time at least; return how long the agreement took."""
    await world.brokers_listen()
    began = trio.current_time()
    took = SETTLE_SECONDS
    with trio.move_on_after(SETTLE_SECONDS):
        await until(world.all_level)
        took = trio.current_time() - began
    await trio.sleep(max(0.0, QUIET_SECONDS - took))
    return took
