"""The end of sessions whose key admits nobody any more: they are told first what was decided before."""

from typing import TYPE_CHECKING

import trio

from broker.control.rooms import Rooms
from broker.wire.turn import Turn

if TYPE_CHECKING:
    from broker.control.member import Member

LAST_WORD_SECONDS = 5.0
"""How long a session may stay when its key is over: until the log has said what was decided, and the client read it."""


class Farewells:
    """Lets sessions go that came to their end together, organization by organization.

    A kill, and the revocation after it, come by ways of their own: after a break of a link, or a restart, the key may
    be read before the log is. No kill reaches an agent that was let go, so its room is compared with the log first.
    """

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._gathering: dict[str, list[Member]] = {}  # by organization, until a task begins to let them go
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the tasks that let sessions go, until cancelled."""
        async with trio.open_nursery() as farewells:
            self._nursery = farewells
            task_status.started()
            await trio.sleep_forever()

    def begin(self, member: "Member") -> None:
        """Have a session end soon."""
        together = self._gathering.get(member.organization_id)
        if together is None:
            assert self._nursery is not None, "sessions end while run() runs"
            together = self._gathering[member.organization_id] = []
            self._nursery.start_soon(self._let_go, member.organization_id)
        together.append(member)

    async def _let_go(self, organization_id: str) -> None:
        leaving = self._gathering.pop(organization_id)
        with trio.move_on_after(LAST_WORD_SECONDS) as patience:
            await self._rooms.compare(organization_id)
        turn = Turn()
        for member in leaving:
            member.let_go()
            if turn.is_over():
                await turn.end()
        if not all(member.peer.closing for member in leaving):
            await trio.sleep_until(patience.deadline)
            for member in leaving:
                member.end_with_key()
                if turn.is_over():
                    await turn.end()
