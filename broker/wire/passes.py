"""The passes of the event loop: from one look at the sockets to the next. What comes meanwhile has to wait."""

import math
import time
from collections.abc import Callable

import trio

__all__ = ["Passes"]


class Passes(trio.abc.Instrument):
    """Knows how long the pass of the loop lasts that goes on now, while `run` runs.

    Attributes:
        clock: in seconds.
        began: when this pass did, on that clock; `-math.inf` before `run`.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.began = -math.inf

    @property
    def lasted(self) -> float:
        """How long, in seconds."""
        return self.clock() - self.began

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch the loop that this runs in, until cancelled; started once it does."""
        self.began = self.clock()
        trio.lowlevel.add_instrument(self)
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            trio.lowlevel.remove_instrument(self)

    def after_io_wait(self, timeout: float) -> None:
        """A pass begins."""
        self.began = self.clock()
