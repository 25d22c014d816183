"""Signals as events: the first asks for an orderly end, the second for an end at once; SIGHUP asks for a reload."""

import signal

import trio

from broker.observe import get_logger


class Signals:
    """SIGTERM, SIGINT and SIGHUP, heard from within Trio.

    Args:
        reloads: whether SIGHUP asks for a reload. A broker that lives in a terminal ends with it instead.

    Attributes:
        stop: set by the first SIGTERM or SIGINT.
        hurry: set by the second.
    """

    def __init__(self, *, reloads: bool = True) -> None:
        self._reloads = reloads
        self.stop = trio.Event()
        self.hurry = trio.Event()
        self._reload = trio.Event()

    async def listen(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hear signals until cancelled."""
        log = get_logger(part="broker")
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
            task_status.started()
            async for number in received:
                name = signal.Signals(number).name
                if number == signal.SIGHUP and self._reloads:
                    self._reload.set()
                elif not self.stop.is_set():
                    log.info("stopping", signal=name)
                    self.stop.set()
                else:
                    log.warning("stopping at once", signal=name)
                    self.hurry.set()

    async def reload(self) -> None:
        """Wait for a SIGHUP; those that came since the last call count as one."""
        await self._reload.wait()
        self._reload = trio.Event()
