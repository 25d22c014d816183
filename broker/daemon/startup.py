"""The first minutes with the store: a short wait for it, the checks that it must pass, and coming up without it."""

from collections.abc import Callable, Iterable

import attrs
import trio
from redis.exceptions import RedisError

from broker.config import Config
from broker.config.bind import is_local
from broker.daemon.build import Broker
from broker.link.errors import LinkDown, StartupError
from broker.observe import Repeated, get_logger
from broker.store.drive import run
from broker.store.schema import check_schema
from broker.store.sealing import check_sealing

PATIENCE = 1.5
"""Seconds to wait for Redis before the door opens without it: upgrades are held then, and health says why."""

RETRY_SECONDS = 0.5
"""Between two tries to check a store that was lost meanwhile."""


@attrs.define(eq=False)
class StoreCheck:
    """Whether the store may be used: asked until it has been answered once.

    Attributes:
        passed: the answer was yes.
    """

    broker: Broker
    passed: bool = False
    _refusal: str = ""
    _log: Repeated = attrs.field(factory=lambda: Repeated(get_logger(part="store")), init=False)

    async def wait_briefly(self) -> None:
        """Give the store `PATIENCE` seconds to come up and pass.

        Raises:
            StartupError: it cannot be used.
            WrongSchema: it holds the data of another layout.
            SealError: its secrets are sealed with another master key.
        """
        with trio.move_on_after(PATIENCE):
            await self._pass()

    async def go_on(self, tell: Callable[[], None]) -> None:
        """Wait for the store for as long as it takes, then call `tell`; raises what `wait_briefly` raises."""
        if not self.passed:
            get_logger(part="broker").warning("starting without Redis", why=self.complaint)
            await self._pass()
            tell()

    @property
    def complaint(self) -> str:
        """What is known about why the store is away, as one line; "" when it is not."""
        for link in self.broker.links.all:
            if not link.state.up:
                return f"no connection to {link.address.describe()}: {link.state.error}".replace("\n", " ")
        return self._refusal

    async def _pass(self) -> None:
        links = self.broker.links
        while True:
            for link in links.all:
                await link.wait_up()
            try:
                await self.broker.store_watch.look()
                await run(links.commands.call, check_schema(self.broker.layout))
                await run(links.commands.call, check_sealing(self.broker.layout, self.broker.sealer))
            except LinkDown:
                await trio.sleep(RETRY_SECONDS)
            except RedisError as error:  # an empty store that is full, say; kills get through nevertheless
                self._refusal = f"{links.commands.address.describe()} refuses: {error}".replace("\n", " ")
                self._log.error("check", "the store cannot be checked: trying again", error=error)
                await trio.sleep(RETRY_SECONDS)
            else:
                self.passed, self._refusal = True, ""
                return


def refuse_exposed_echo(config: Config, listeners: Iterable[str]) -> None:
    """Keep the echo endpoint, which asks for no key, from being reached by others; inherited sockets may be anywhere.

    Args:
        config: the configuration.
        listeners: where the broker listens, as in `server.bind`.

    Raises:
        StartupError: it is on, and one of these is no loopback address.
    """
    exposed = [where for where in listeners if not is_local(where)]
    if config.debug.echo_path and exposed:
        raise StartupError(f"debug.echo_path is for tests: it is refused while the broker listens on {exposed[0]}.")
