"""Signals as events: the first one asks for an orderly end, the second for an end at once."""

import signal

import trio

from broker.observe import get_logger


class Signals:
    """SIGTERM and SIGINT, heard from within Trio.

    Attributes:
        stop: set by the first of them.
        hurry: set by the second.
    """

    def __init__(self) -> None:
        self.stop = trio.Event()
        self.hurry = trio.Event()

    async def listen(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hear signals until cancelled."""
        log = get_logger(part="broker")
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
            task_status.started()
            async for number in received:
                name = signal.Signals(number).name
                if not self.stop.is_set():
                    log.info("stopping", signal=name)
                    self.stop.set()
                else:
                    log.warning("stopping at once", signal=name)
                    self.hurry.set()
