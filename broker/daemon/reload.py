"""A new configuration for a running broker."""

from collections.abc import Awaitable, Callable

import attrs

from broker.config import Config
from broker.daemon.build import Broker
from broker.daemon.notify import Notifier
from broker.observe import get_logger


@attrs.frozen(eq=False)
class Reloader:
    """Reads the configuration again."""

    broker: Broker
    notifier: Notifier
    reread: Callable[[], Config] | None

    async def run(self, asked: Callable[[], Awaitable[None]]) -> None:
        """Wait to be asked, for ever."""
        while True:
            await asked()
            get_logger(part="broker").warning("nothing to reload")
