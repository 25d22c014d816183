"""The places of a connection's pipeline in which replies are awaited, in the order in which commands were sent."""

from __future__ import annotations

from typing import Protocol

import attrs
import outcome
import trio


def says_replica(hello: dict[bytes, object]) -> bool:
    """Tell whether a server calls itself a replica, which takes subscriptions and no writes."""
    return hello.get(b"role") in (b"replica", b"slave")


class Slot(Protocol):
    """One command under way. Exactly one of `settle`, the last `confirm`, or `lost` ends it."""

    def settle(self, reply: object) -> None:
        """Take the ordinary reply; an error reply is an exception object."""

    def confirm(self, push: list[bytes]) -> bool:
        """Take a confirmation of a subscription, which RESP3 sends as a push; True when it was the last one due."""

    def lost(self, error: Exception) -> None:
        """Take note that the connection ended before the reply came."""


class OutOfStep(Exception):
    """The server sent something that no command of ours asked for; the connection cannot be trusted any more."""


@attrs.define(eq=False)
class CallSlot:
    """A command with one ordinary reply and one task that waits for it, or none any more if that was cancelled.

    This is a task's parking place rather than an Event and a field, because it is on the path of every call.
    """

    _task: trio.lowlevel.Task | None = None
    _result: outcome.Outcome[object] | None = None

    def settle(self, reply: object) -> None:
        """Hand the reply to the task, if it still waits."""
        self._finish(outcome.Error(reply) if isinstance(reply, Exception) else outcome.Value(reply))

    def confirm(self, push: list[bytes]) -> bool:
        """Fail: no confirmation is due here."""
        raise OutOfStep(f"a {push[0]!r} confirmation came in place of a reply")

    def lost(self, error: Exception) -> None:
        """Raise it in the task, if it still waits."""
        # An exception of its own for each task: tracebacks are written into it.
        self._finish(outcome.Error(type(error)(str(error))))

    async def wait(self) -> object:
        """Return the reply, or raise what the server or the link answered; cancelled, leave the slot where it is."""
        if self._result is not None:
            return self._result.unwrap()
        self._task = trio.lowlevel.current_task()

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        return await trio.lowlevel.wait_task_rescheduled(abort)

    def _finish(self, result: outcome.Outcome[object]) -> None:
        self._result = result
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task, result)


@attrs.define(eq=False)
class PingSlot:
    """A HELLO in place of a PING: any reply at all shows that the server is alive, and a good one what it is."""

    answered: trio.Event = attrs.field(factory=trio.Event)
    is_replica: bool = False

    def settle(self, reply: object) -> None:
        """Note the sign of life."""
        self.is_replica = isinstance(reply, dict) and says_replica(reply)
        self.answered.set()

    def confirm(self, push: list[bytes]) -> bool:
        """Fail: no confirmation is due here."""
        raise OutOfStep(f"a {push[0]!r} confirmation came in place of a HELLO's reply")

    def lost(self, error: Exception) -> None:
        """Stop waiting."""
        self.answered.set()
