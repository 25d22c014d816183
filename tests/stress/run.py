"""One stress run, from the storm to the last descriptor."""

from collections.abc import Callable

import attrs
import trio

from tests.soak.ledger import Ledger
from tests.stress.abuse import abuse
from tests.stress.ending import all_leave, everybody_knows_everything, no_leak, nothing_is_left, warm
from tests.stress.outage import drain_in_the_storm, store_goes_away
from tests.stress.plan import Plan
from tests.stress.stage import Stage
from tests.stress.storm import full_house, revocation, storm
from tests.stress.world import build_world

__all__ = ["Outcome", "stress"]


@attrs.frozen
class Outcome:
    """What came of a run: `ledger.complaints` is empty if all is well."""

    ledger: Ledger
    figures: dict[str, object]


async def stress(plan: Plan, seed: int, say: Callable[[str], None] = print) -> Outcome:
    """Run everything; `say` is told of each act."""
    figures: dict[str, object] = {}
    async with build_world(plan, seed) as world:
        stage = Stage(world, figures, say)
        await world.broker.listening(plan.patience)
        before = await warm(stage)
        async with trio.open_nursery() as crowd:
            async with stage.publishing():
                await storm(stage, crowd)
                await full_house(stage)
                await abuse(stage)
            await store_goes_away(stage)
            async with stage.publishing():
                await revocation(stage, crowd)
            await everybody_knows_everything(stage)
            await all_leave(stage)
        await nothing_is_left(stage, before, "first")
        await no_leak(stage, before)
        if plan.drain:
            async with trio.open_nursery() as crowd:
                await drain_in_the_storm(stage, crowd)
                async with stage.publishing():
                    await trio.sleep(1)
                await everybody_knows_everything(stage)
                await all_leave(stage)
            await nothing_is_left(stage, before, "second")
        world.broker.terminate()
        stage.expect("exit status", await world.broker.ended(plan.patience), 0)
        for line in world.broker.errors():
            world.ledger.complain(f"in the log: {line}")
    figures["seconds"] = round(stage.seconds, 1)
    return Outcome(world.ledger, figures)
