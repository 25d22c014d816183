"""Sending again what was not acknowledged: one task for all sessions, without a timer per message."""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import trio

from broker.control.acks import Pending
from broker.wire.doorbell import Doorbell
from broker.wire.turn import Turn

if TYPE_CHECKING:
    from broker.control.member import Member


class _Due(NamedTuple):
    at: float  # trio time
    member: "Member"
    pending: Pending


class Resends:
    """Every unacknowledged message of every session, in the order of its deadline.

    The first wait is `timeout` seconds, each following one twice as long, so a deque per attempt is sorted by itself.

    Args:
        timeout: `control.ack_timeout`.
        attempts: `control.ack_attempts`: how often a message is sent again before the session counts as unconfirmed.
        give_up: called then with the session and the message; a late ack still counts.
    """

    def __init__(self, timeout: float, attempts: int, give_up: "Callable[[Member, Pending], None]") -> None:
        self._waits = [timeout * 2**attempt for attempt in range(attempts + 1)]
        self._due: list[deque[_Due]] = [deque() for _ in self._waits]
        self._give_up = give_up
        self._bell = Doorbell()
        self._next = float("inf")

    def plan(self, member: "Member", pending: Pending) -> None:
        """Wait for the ack of a message that is being sent now."""
        self._queue(member, pending, trio.current_time())

    async def run(self) -> None:
        """Send again whatever is due, until cancelled."""
        turn = Turn()
        while True:
            self._next = min((queue[0].at for queue in self._due if queue), default=float("inf"))
            with trio.move_on_at(self._next):
                await self._bell.wait()
            now = trio.current_time()
            for queue in self._due:
                while queue and queue[0].at <= now:
                    self._settle(*queue.popleft()[1:], now)
                    if turn.is_over():
                        await turn.end()

    def _settle(self, member: "Member", pending: Pending, now: float) -> None:
        if not pending.resent or member.peer.closing:
            return
        if pending.attempts >= len(self._waits) - 1:
            self._give_up(member, pending)
            return
        member.resend(pending)
        self._queue(member, pending, now)

    def _queue(self, member: "Member", pending: Pending, now: float) -> None:
        due = _Due(now + self._waits[pending.attempts], member, pending)
        self._due[pending.attempts].append(due)
        if due.at < self._next:
            self._next = due.at
            self._bell.ring()
