"""Whether the store is still fit to hold the broker's state, and knows what publishers ask it."""

from collections.abc import Mapping

import attrs
import trio
from redis.exceptions import NoPermissionError, RedisError

from broker.config.model import History
from broker.link.errors import LinkDown, StartupError
from broker.link.link import Link
from broker.link.server_check import ServerReport, check_server
from broker.observe import get_logger
from broker.store.drive import run
from broker.store.history import settle_history
from broker.store.layout import Layout
from broker.wire.doorbell import Doorbell

LOOK_SECONDS = 60.0
"""How long a change of the server's settings, or a loss of what we wrote there, may go unnoticed."""


@attrs.define(eq=False)
class StoreWatch:
    """Looks at the store when the link for commands comes up, when the bell rings, and every `LOOK_SECONDS`.

    Between two looks an operator, or a failover, may have put other settings, or another server, under the broker.

    Args:
        link: to the store.
        layout: of the store.
        history: which namespaces keep events now: written down for publishers that have no configuration.
        durable: an append-only file is expected.

    Attributes:
        bell: asks for a look.
        unfit: why the store must not be trusted with decisions, as one sentence; "" when it may.
        report: what was found last; None before the first look.
        forbidden: our user may not read our keys: then nobody can be let in, and no decision be seen.
    """

    link: Link
    layout: Layout
    history: Mapping[str, History]
    durable: bool
    bell: Doorbell = attrs.field(factory=Doorbell)
    unfit: str = ""
    report: ServerReport | None = None
    forbidden: bool = False
    _said: frozenset[str] = frozenset()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look again and again, until cancelled."""
        task_status.started()
        while True:
            with trio.move_on_after(LOOK_SECONDS):
                await self.bell.wait()
            await self.link.wait_up()
            try:
                await self.look()
            except (StartupError, RedisError):  # kept in `unfit`, or LinkDown: the link comes up again, and rings
                continue

    async def look(self) -> None:
        """Look once, log what was not so the last time, and write down what publishers must know.

        Raises:
            StartupError: the store is unfit.
            LinkDown: the link broke meanwhile.
        """
        log = get_logger(part="store")
        try:
            self.report = await check_server(self.link, durable=self.durable)
        except StartupError as error:
            if self.unfit != str(error):
                log.error("the store has become unfit", why=str(error))
            self.unfit = str(error)
            raise
        if self.unfit:
            log.info("the store is fit again")
            self.unfit = ""
        warnings = set(self.report.warnings)
        try:
            await self.link.call("GET", self.layout.schema())
            self.forbidden = False
        except NoPermissionError as error:
            self.forbidden = True
            warnings.add(f"{self.link.address.describe()} does not let its user read the broker's keys: {error}")
        try:
            await run(self.link.call, settle_history(self.layout, self.history))
        except LinkDown:
            raise
        except RedisError as error:
            warnings.add(f"publishers are not told which namespaces keep events: {error}")
        for warning in sorted(warnings - self._said):
            log.warning(warning)
        self._said = frozenset(warnings)
