"""The control plane as one thing: everything that its sessions need, built and run together."""

import time
from collections.abc import Callable
from typing import Any

import attrs
import trio

from broker.config import Config
from broker.control.acks import Pending
from broker.control.carried import CarriedSession
from broker.control.farewells import Farewells
from broker.control.feed import ControlFeed
from broker.control.input import InputDesk
from broker.control.listings import Listings
from broker.control.member import Member
from broker.control.message import Signers
from broker.control.presence import PresenceBoard
from broker.control.receipts import ReceiptBook, diagnose
from broker.control.resends import Resends
from broker.control.rooms import Rooms
from broker.control.sending import Sending
from broker.control.services import ControlServices
from broker.keys import KeyCache
from broker.link.subscriptions import SubscriptionLink
from broker.observe import Counters, Repeated
from broker.store.drive import Call
from broker.store.layout import Layout
from broker.store.limits import LogLimits
from broker.wire.peer import Peer


@attrs.frozen(eq=False)
class ControlPlane:
    """The control plane of one broker; made by `build_control`.

    Attributes:
        services: for sessions and REST calls.
        feed: takes what the control plane's subscription link brings: its `on_push` and `on_restored`.
        desk: control input.
    """

    services: ControlServices
    feed: ControlFeed
    desk: InputDesk
    _feeding: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    def carry(self, peer: Peer) -> CarriedSession | None:
        """Return what another process needs to go on with the session on a connection; None if there is none."""
        member = self.services.members.get(peer)
        if member is None:
            return None
        room = self.services.rooms.get(member.organization_id)
        known = room is not None and member in room.members and member.generation == room.generation
        position = room.replica.position if room is not None and known else None
        return member.carry(None if position is None else position.epoch)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the control plane until cancelled; started when it hears of everything, or Redis has kept it waiting.

        The links must be running.
        """
        services = self.services
        async with trio.open_nursery() as plane:
            await plane.start(services.rooms.run)
            await plane.start(services.listings.run)
            await plane.start(self.desk.run)
            await plane.start(services.farewells.run)
            await plane.start(services.keys.run)
            plane.start_soon(services.resends.run)
            plane.start_soon(services.receipts.run)
            plane.start_soon(services.presence.run)
            await plane.start(self._feed)
            task_status.started()

    async def finish(self) -> None:
        """Hear no more control input, and return when all that was heard is applied; never, while the store is away."""
        self._feeding.cancel()  # it would want again what is given up here
        await self.desk.finish()

    async def _feed(self, task_status: trio.TaskStatus[None]) -> None:
        with self._feeding:
            await self.feed.run(task_status)


def build_control(
    *,
    config: Config,
    layout: Layout,
    link: SubscriptionLink,
    call: Call,
    keys: KeyCache,
    counters: Counters,
    log: Any,
    broker_id: str,
    clock: Callable[[], float] = time.time,
) -> ControlPlane:
    """Build the control plane.

    Args:
        config: the whole configuration.
        layout: names in the store.
        link: the control plane's own subscription link; its pushes go to `ControlPlane.feed`.
        call: the command link's `call`.
        keys: the key cache; it hears of changes through the control plane's link, and runs with it.
        counters: what is counted.
        log: structlog.
        broker_id: names this broker in claims, receipts and presence; unique for every start.
        clock: unix time in seconds.
    """
    limits = LogLimits.of(config.control)
    receipts = ReceiptBook(layout, call, broker_id, log)
    rooms = Rooms(
        layout=layout,
        call=call,
        link=link,
        counters=counters,
        log=log,
        clock=clock,
        window=config.control.replay_window,
        limits=limits,
        delivered=receipts.delivered,
    )

    def describe() -> dict[str, Any]:
        return {"sessions": counters.control_sessions, "blind_since": rooms.blind_since}

    say = Repeated(log)

    def give_up(member: Member, pending: Pending) -> None:
        member.pending.settle(pending)
        counters.unconfirmed += 1
        receipts.unconfirmed(member, pending)
        say.warning(
            f"unconfirmed {member.organization_id}",
            "an agent has never acknowledged a message",
            org=member.organization_id,
            workflow=pending.publication.workflow_id,
            connection=member.peer.id,
            key_id=member.record.key_id,
            message_id=pending.publication.message_id,
            why=diagnose(member),
        )

    services = ControlServices(
        config=config,
        layout=layout,
        call=call,
        rooms=rooms,
        listings=Listings(layout, call, rooms, log),
        farewells=Farewells(rooms),
        keys=keys,
        signers=Signers(),
        resends=Resends(config.control.ack_timeout, config.control.ack_attempts, give_up),
        receipts=receipts,
        presence=PresenceBoard(layout, call, broker_id, describe, log),
        sending=Sending(),
        counters=counters,
        log=log,
        broker_id=broker_id,
        clock=clock,
    )
    desk = InputDesk(
        layout=layout,
        call=call,
        link=link,
        counters=counters,
        log=log,
        broker_id=broker_id,
        limits=limits,
        present=lambda organization_id: rooms.get(organization_id) is not None,
    )
    feed = ControlFeed(layout, link, rooms, keys, desk, log)
    return ControlPlane(services, feed, desk)
