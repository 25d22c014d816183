"""Receipts: who was sent what and who acknowledged it, written to the store behind the backs of the sessions."""

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import trio
from redis.exceptions import RedisError

from broker.control.acks import Pending
from broker.control.member import Member
from broker.control.publication import Publication
from broker.link.errors import LinkDown
from broker.observe import Repeated
from broker.store.drive import Call, run
from broker.store.layout import Layout
from broker.store.receipts import MAX_CLOCK_SKEW, Addressee, Delivery, acknowledge, deliver, mark
from broker.store.request import Operation

MAX_WAITING = 100_000
"""Notes that may wait to be written while Redis is away; past that the oldest are lost, and receipts show "pending"."""

WRITERS = 8
"""Tasks that write notes down side by side."""

PER_NOTE = 500
"""Sessions of one message that are written in one step."""

RETRY_SECONDS = 0.5
"""Between two tries to write a note while Redis is away."""

Note = Callable[[], Operation[object]]
"""Something to be written; each call is another try."""


class ReceiptBook:
    """Notes what happens to messages that want acks.

    The notes of a session may be written in another order than they were made: the store sees to it that an ack wins.

    Args:
        layout: names in the store.
        call: the command link's `call`.
        broker_id: who writes.
        log: structlog.
    """

    def __init__(self, layout: Layout, call: Call, broker_id: str, log: Any) -> None:
        self._layout = layout
        self._call = call
        self._broker_id = broker_id
        self._log = Repeated(log)
        self._notes: deque[Note] = deque(maxlen=MAX_WAITING)
        self._idle = trio.lowlevel.ParkingLot()
        self._settled = trio.lowlevel.ParkingLot()
        self._writing = 0

    def delivered(self, publication: Publication, members: Iterable[Member]) -> None:
        """Note that a message was sent to its addressees; that there are none is worth a note too."""
        addressees = [Addressee(each.peer.id, each.record.key_id, each.bound) for each in members]
        if publication.body is None:
            return
        organization_id, message_id = publication.body.organization_id, publication.message_id
        for start in range(0, len(addressees) or 1, PER_NOTE):
            some = addressees[start : start + PER_NOTE]
            self._add(partial(deliver, self._layout, organization_id, message_id, self._broker_id, some))

    def acknowledged(self, member: Member, pending: Pending, received_at: int) -> None:
        """Note an addressee's ack; `received_at` is unix seconds by its own clock."""
        message_id = pending.publication.message_id
        self._add(partial(acknowledge, self._layout, member.organization_id, message_id, member.peer.id, received_at))

    def overdue(self, member: Member, pending: Pending) -> None:
        """Note why an addressee may not have acknowledged a message in time; it is still waited for."""
        self._mark(member, pending, Delivery.PENDING, cause(member))

    def unconfirmed(self, member: Member, pending: Pending) -> None:
        """Note that an addressee was sent a message often enough, and why it may not have acknowledged it."""
        self._mark(member, pending, Delivery.UNCONFIRMED, diagnose(member))

    def gone(self, member: Member, left: Iterable[Pending]) -> None:
        """Note that a session ended with messages unacknowledged."""
        for pending in left:
            self._mark(member, pending, Delivery.GONE, diagnosis=None)

    async def run(self) -> None:
        """Write notes down, until cancelled."""
        async with trio.open_nursery() as writers:
            for _ in range(WRITERS):
                writers.start_soon(self._write)

    async def settled(self) -> None:
        """Wait until every note is written; for ever, while Redis is away."""
        while self._notes or self._writing:
            await self._settled.park()
        await trio.lowlevel.checkpoint()

    def _mark(self, member: Member, pending: Pending, status: Delivery, diagnosis: str | None) -> None:
        if pending.addressee:
            message_id = pending.publication.message_id
            self._add(
                partial(mark, self._layout, member.organization_id, message_id, member.peer.id, status, diagnosis)
            )

    def _add(self, note: Note) -> None:
        self._notes.append(note)
        self._idle.unpark()

    async def _write(self) -> None:
        while True:
            while not self._notes:
                await self._idle.park()
            note = self._notes.popleft()
            self._writing += 1
            try:
                await run(self._call, note())
            except LinkDown:
                if len(self._notes) < MAX_WAITING:  # else it is the oldest, and there is no room for it any more
                    self._notes.appendleft(note)
                await trio.sleep(RETRY_SECONDS)
            except RedisError as error:
                self._log.error("refused", "the store refuses a receipt", error=error)
            finally:
                self._writing -= 1
            if not (self._notes or self._writing):
                self._settled.unpark_all()


def diagnose(member: Member) -> str:
    """Say why a session does not acknowledge, for the operator who waits for it."""
    return cause(member) or "connected, but did not acknowledge"


def cause(member: Member) -> str | None:
    """Say what may keep a session from acknowledging; None if nothing speaks for anything."""
    if member.clock_skew is not None and abs(member.clock_skew) > MAX_CLOCK_SKEW:
        return f"clock is off by {member.clock_skew:.0f} s"
    if member.wrong_signatures:
        return "its acks are signed with a wrong secret"
    if member.silent:
        return "silent: it answers no pings"
    if member.secret is not None and not member.acked:
        return f"never acknowledged anything: wrong secret, or a clock off by more than {MAX_CLOCK_SKEW:.0f} s?"
    return None
