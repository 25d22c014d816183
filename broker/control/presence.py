"""Presence: which agents this broker holds, written where every broker and operator can see it."""

from collections.abc import Callable
from typing import Any

import attrs
import trio
from redis.exceptions import RedisError

from broker.control.member import Member
from broker.observe import Repeated
from broker.store.brokers import heartbeat, sign_off
from broker.store.drive import Call, run
from broker.store.layout import Layout
from broker.store.presence import Presence, put_presence, refresh_presence, remove_elsewhere, remove_presence

GATHER_SECONDS = 0.1
"""How long changes are gathered, so that many of them are written in one step."""

BEAT_SECONDS = 5.0
"""Between two heartbeats, each of which keeps what was written from expiring."""

RETRY_SECONDS = 1.0
"""Between two tries to write, unless the link comes back before."""

FAREWELL_SECONDS = 1.0
"""How long a broker that ends may take to say so."""

PER_WRITE = 500
"""Sessions that are written in one step."""


@attrs.define(eq=False)
class _Org:
    """The sessions of one organization, and what of them is not written yet."""

    members: dict[str, Member] = attrs.field(factory=dict)
    changed: dict[str, None] = attrs.field(factory=dict)
    gone: dict[str, None] = attrs.field(factory=dict)
    taken_up: dict[str, None] = attrs.field(factory=dict)


class PresenceBoard:
    """Writes who is here, and that this broker lives. When it stops writing, others forget it within 30 s.

    Args:
        layout: names in the store.
        call: the command link's `call`.
        broker_id: who writes.
        describe: what this broker says of itself with each heartbeat, in JSON's terms.
        log: structlog.
    """

    def __init__(
        self, layout: Layout, call: Call, broker_id: str, describe: Callable[[], dict[str, Any]], log: Any
    ) -> None:
        self._layout = layout
        self._call = call
        self._broker_id = broker_id
        self._describe = describe
        self._log = Repeated(log)
        self._orgs: dict[str, _Org] = {}
        self._dirty: dict[str, None] = {}
        self._wake = trio.Event()
        self._link_is_up = trio.Event()

    def put(self, member: Member, *, taken_up: bool = False) -> None:
        """Note a session, or a change of it; `taken_up` from another process, which has left it in."""
        org = self._orgs.setdefault(member.organization_id, _Org())
        org.members[member.peer.id] = member
        org.changed[member.peer.id] = None
        if taken_up:
            org.taken_up[member.peer.id] = None
        self._touch(member.organization_id)

    def remove(self, member: Member) -> None:
        """Note the end of a session."""
        org = self._orgs[member.organization_id]
        org.members.pop(member.peer.id, None)
        org.changed.pop(member.peer.id, None)
        org.gone[member.peer.id] = None
        self._touch(member.organization_id)

    def link_up(self) -> None:
        """The command link is there again: the store behind it may have forgotten everything, so write at once."""
        self._link_is_up.set()
        self._link_is_up = trio.Event()

    async def run(self) -> None:
        """Write until cancelled; then say goodbye, if that can be done quickly."""
        try:
            async with trio.open_nursery() as writers:
                writers.start_soon(self._write_changes)
                writers.start_soon(self._beat)
        finally:
            with trio.move_on_after(FAREWELL_SECONDS, shield=True):
                await self.sign_off()

    def _touch(self, organization_id: str) -> None:
        self._dirty[organization_id] = None
        self._wake.set()

    async def _write_changes(self) -> None:
        while True:
            await self._wake.wait()
            await trio.sleep(GATHER_SECONDS)
            self._wake = trio.Event()
            while self._dirty:
                link_is_up = self._link_is_up
                organization_id = next(iter(self._dirty))
                del self._dirty[organization_id]
                org = self._orgs.get(organization_id)
                if org is None:
                    continue  # the last of its sessions went, and was written, while a heartbeat missed it
                try:
                    await self._write(organization_id, org)
                except RedisError as error:
                    self._touch(organization_id)
                    self._log.warning("away", "presence cannot be written", error=error)
                    await _wait(link_is_up, RETRY_SECONDS)

    async def _write(self, organization_id: str, org: _Org) -> None:
        gone = list(org.gone)
        if gone:
            await run(self._call, remove_presence(self._layout, organization_id, self._broker_id, gone))
            for session_id in gone:
                org.gone.pop(session_id, None)
        while org.changed:
            some = list(org.changed)[:PER_WRITE]
            found = {each: _present(org.members[each]) for each in some}
            for session_id in some:
                del org.changed[session_id]  # what changes during the write is written after it
            try:
                there = await run(self._call, put_presence(self._layout, organization_id, self._broker_id, found))
            except RedisError:
                org.changed.update(dict.fromkeys(each for each in some if each in org.members))
                raise
            if not there and len(org.members) > len(some):
                org.changed.update(dict.fromkeys(each for each in org.members if each not in found))
        while org.taken_up:
            some = list(org.taken_up)[:PER_WRITE]
            await run(self._call, remove_elsewhere(self._layout, organization_id, self._broker_id, some))
            for session_id in some:
                org.taken_up.pop(session_id, None)
        if not org.members and not org.gone and self._orgs.get(organization_id) is org:
            del self._orgs[organization_id]

    async def _beat(self) -> None:
        while True:
            link_is_up = self._link_is_up
            try:
                await run(self._call, heartbeat(self._layout, self._broker_id, self._describe()))
                for organization_id, org in list(self._orgs.items()):
                    if org.members and not await run(
                        self._call, refresh_presence(self._layout, organization_id, self._broker_id)
                    ):
                        org.changed.update(dict.fromkeys(org.members))
                        self._touch(organization_id)
            except RedisError as error:
                self._log.warning("beat", "no heartbeat can be written", error=error)
                await _wait(link_is_up, RETRY_SECONDS)
            else:
                await _wait(link_is_up, BEAT_SECONDS)

    async def sign_off(self) -> None:
        """Say that this broker and its sessions are gone, if the store can be reached.

        Sessions that are handed over are not: with their broker they count as connected until another process has them,
        or until they expire. Whoever kills in between would else be told that nobody is there.
        """
        try:
            if not any(member.peer.handed_over for org in self._orgs.values() for member in org.members.values()):
                await run(self._call, sign_off(self._layout, self._broker_id))
            for organization_id, org in list(self._orgs.items()):
                await self._leave(organization_id, org)
        except RedisError:
            return  # it will be missed soon enough

    async def _leave(self, organization_id: str, org: _Org) -> None:
        going_on = {each: _present(member) for each, member in org.members.items() if member.peer.handed_over}
        gone = [*org.gone, *(each for each in org.members if each not in going_on)] if going_on else None
        await run(self._call, remove_presence(self._layout, organization_id, self._broker_id, gone))
        names = list(going_on)
        for start in range(0, len(names), PER_WRITE):
            some = {each: going_on[each] for each in names[start : start + PER_WRITE]}
            await run(self._call, put_presence(self._layout, organization_id, self._broker_id, some))


async def _wait(event: trio.Event, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await event.wait()


def _present(member: Member) -> Presence:
    return Presence(
        key_id=member.record.key_id,
        workflow_id=member.bound,
        since=int(member.peer.opened_at),
        last_ack=int(member.last_ack) or None,
        silent=member.silent,
    )
