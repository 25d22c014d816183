"""What the control plane's subscription link brings, handed to whom it concerns."""

from collections.abc import Callable
from typing import Any

import trio
from redis.exceptions import RedisError

from broker.control.input import InputDesk
from broker.control.rooms import Rooms
from broker.keys import KeyCache
from broker.link.confirmation import Confirmation
from broker.link.subscriptions import SubscriptionLink
from broker.store.layout import Layout
from broker.wire.turn import Turn

CONFIRM_SECONDS = 1.0
"""How long the start waits for both subscriptions to be confirmed."""

REFUSED_SECONDS = 10.0
"""Between two tries to subscribe, where the server refuses."""


class ControlFeed:
    """Tells live messages, changes of keys and control input apart.

    The link waits for it: it yields whenever a batch takes longer than a turn, and a full input desk holds it up.
    """

    def __init__(
        self, layout: Layout, link: SubscriptionLink, rooms: Rooms, keys: KeyCache, desk: InputDesk, log: Any
    ) -> None:
        self._layout = layout
        self._link = link
        self._log = log
        self._rooms = rooms
        self._keys = keys
        self._desk = desk
        self._key_changes = layout.key_changes().encode()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the broker-wide subscriptions wanted, until cancelled; started when they are confirmed or overdue."""
        async with trio.open_nursery() as subscriptions:
            with trio.move_on_after(CONFIRM_SECONDS):
                # The pattern first: claims go by when the connection's first subscription began.
                await subscriptions.start(self._keep, self._link.psubscribe, self._layout.control_pattern().encode())
                await subscriptions.start(self._keep, self._link.subscribe, self._key_changes)
            task_status.started()
            await trio.sleep_forever()

    async def _keep(
        self,
        subscribe: Callable[[bytes], Confirmation],
        name: bytes,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Subscribe, and again for as long as the server refuses: once confirmed, the link takes care of it."""
        while True:
            try:
                await subscribe(name).wait()
            except RedisError as error:
                self._log.error("a subscription is refused", channel=name.decode(), error=error)
                await trio.sleep(REFUSED_SECONDS)
            else:
                task_status.started()
                return

    async def on_push(self, batch: list[list[bytes]]) -> None:
        """Take what one read of the link has brought, in order."""
        turn = Turn()
        for push in batch:
            kind = push[0]
            if kind == b"message":
                self._on_message(push[1], push[2])
            elif kind == b"pmessage":
                await self._desk.accept(push[2], push[3])
            if turn.is_long():
                await turn.end()

    def on_restored(self) -> None:
        """The link was broken and is back: whatever was published meanwhile was not heard."""
        self._keys.suspect_all()
        self._rooms.restored()

    def _on_message(self, channel: bytes, payload: bytes) -> None:
        if channel == self._key_changes:
            self._keys.on_change(payload)
            return
        organization_id = self._layout.organization_of_live(channel.decode("utf-8", "replace"))
        if organization_id is not None:
            self._rooms.hear(organization_id, payload)
