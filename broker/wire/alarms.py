"""One clock for all the small waits of many connections."""

import math
from typing import Protocol

import trio

from broker.wire.doorbell import Doorbell
from broker.wire.turn import Turn

__all__ = ["TICK", "Alarms", "Bell"]

TICK = 0.2
"""Seconds that an alarm may be late; all those of one tick are rung together."""


class Bell(Protocol):
    """What can be rung."""

    def ring(self) -> None:
        """Do what it is time for; returns at once, and raises nothing."""


class Alarms:
    """Rings bells at a time.

    A task that waits with a deadline of its own keeps a cancel scope, its status and its place among all deadlines:
    two kilobytes, for each of thousands of connections that ask every half minute whether their client is there. Here
    an alarm is a place in a list. It cannot be taken back; what is rung looks at the clock, and may wait on.
    """

    def __init__(self) -> None:
        self._ticks: dict[int, list[Bell]] = {}
        self._next = math.inf
        self._sooner = Doorbell()

    def set(self, bell: Bell, seconds: float) -> float:
        """Have a bell rung in `seconds` or a little later; returns when, on Trio's clock, at the earliest."""
        tick = math.ceil((trio.current_time() + seconds) / TICK)
        bells = self._ticks.get(tick)
        if bells is None:
            self._ticks[tick] = [bell]
            if tick < self._next:
                self._next = tick
                self._sooner.ring()
        else:
            bells.append(bell)
        return tick * TICK

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ring, until cancelled."""
        task_status.started()
        turn = Turn()
        while True:
            with trio.move_on_at(self._next * TICK):
                await self._sooner.wait()
                continue
            for bell in self._ticks.pop(int(self._next), ()):
                bell.ring()
                if turn.is_over():
                    await turn.end()
            self._next = min(self._ticks, default=math.inf)
