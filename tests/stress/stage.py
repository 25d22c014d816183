"""What all acts of a run share: the world, what is said and counted, and how one waits."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

import trio

from tests.soak.agent import Agent
from tests.stress.browser import Browser
from tests.stress.world import World

__all__ = ["Stage"]

LOOK_AGAIN = 0.05
"""Seconds between two looks at another process."""

TELL_SECONDS = 10.0
"""Seconds of waiting between two lines that say for what."""


class Stage:
    """One run.

    Attributes:
        world, plan, ledger: who takes part, how many they are, and what went wrong.
        figures: what is told at the end.
        counts: of the ledger.
    """

    def __init__(self, world: World, figures: dict[str, object], say: Callable[[str], None]) -> None:
        self.world, self.plan, self.ledger, self.figures = world, world.plan, world.ledger, figures
        self.counts = world.ledger.counts
        self._say = say
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has taken."""
        return time.monotonic() - self._began

    def say(self, text: str) -> None:
        """Tell how far it is."""
        self._say(f"{self.seconds:6.1f} s  {text}")

    def expect(self, what: str, found: object, wanted: object) -> None:
        """Complain unless they are equal."""
        if found != wanted:
            self.ledger.complain(f"{what}: {found!r} in place of {wanted!r}")

    async def until(
        self, what: str, condition: Callable[[], Awaitable[bool]], lacks: Callable[[], list[str]] = list
    ) -> None:
        """Wait for a condition, saying now and then what it `lacks`; complain if it does not come."""
        said = self.seconds
        with trio.move_on_after(self.plan.patience):
            while not await condition():
                await trio.sleep(LOOK_AGAIN)
                if self.seconds - said >= TELL_SECONDS:
                    said = self.seconds
                    self.say(f"still waiting: {what}: {'; '.join(lacks()[:5])}")
            return
        self.ledger.complain(f"in vain: {what}")

    async def until_connected(self, what: str, clients: Iterable[Browser | Agent]) -> None:
        """Wait until all of them are connected, at the same time."""
        everybody = list(clients)

        async def connected() -> bool:
            return all(client.connected.is_set() for client in everybody)

        await self.until(what, connected, lambda: [each.name for each in everybody if not each.connected.is_set()])

    async def metric(self, name: str) -> float:
        """Read one metric of the broker, without its prefix."""
        return (await self.world.broker.metrics())[f"signalbox_{name}"]

    def nobody_else_is_out(self) -> None:
        """Complain of everybody who was closed for good without having had a revoked key."""
        revoked = self.world.revoked
        for browser in self.world.browsers:
            if browser.ends is not None and browser not in revoked:
                self.ledger.complain(f"{browser.name} ended with {browser.ends}")

    @asynccontextmanager
    async def publishing(self) -> AsyncIterator[None]:
        """Publish for the length of the block."""
        async with trio.open_nursery() as pressure:
            pressure.start_soon(self.world.newsroom.run)
            pressure.start_soon(self.world.operator.run)
            yield
            pressure.cancel_scope.cancel()
