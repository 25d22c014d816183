"""A wake-up for exactly one waiting task, without an allocation per wake."""

import trio


class Doorbell:
    """Lets any synchronous code wake the one task that waits; a ring with nobody waiting is remembered once.

    A `trio.Event` is used up by its first set, so a task that sleeps and wakes for as long as a connection lives would
    make a new one each time. This is the smallest thing that can be rung for ever.
    """

    __slots__ = ("_rung", "_task")

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None
        self._rung = False

    def ring(self) -> None:
        """Wake the waiter, or let the next `wait` return at once."""
        self._rung = True
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)

    def forget(self) -> None:
        """Forget a ring that nobody has waited for."""
        self._rung = False

    async def wait(self) -> None:
        """Sleep until the bell is rung; every ring before that counts as one.

        Raises:
            RuntimeError: another task is waiting already.
        """
        if self._task is not None:
            raise RuntimeError("a doorbell has one waiter")
        if self._rung:
            await trio.lowlevel.checkpoint()
        else:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        self._rung = False

    def _abort(self, _raise_cancel: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED
