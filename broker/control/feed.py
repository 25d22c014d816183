"""What the control plane's subscription link brings, handed to whom it concerns."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import trio
from redis.exceptions import RedisError

from broker.control.input import InputDesk
from broker.control.rooms import Rooms
from broker.keys import KeyCache
from broker.link.confirmation import Confirmation
from broker.link.errors import SubscriptionEnded
from broker.link.subscriptions import SubscriptionLink
from broker.observe import Repeated
from broker.store.layout import Layout
from broker.wire.turn import Turn

CONFIRM_SECONDS = 1.0
"""How long the start waits for both subscriptions to be confirmed."""

REFUSED_SECONDS = 1.0
"""Between two tries to subscribe, where the server refuses: until one succeeds, no plain kill is heard here."""


class ControlFeed:
    """Tells live messages, changes of keys and control input apart.

    The link waits for it: it yields whenever a batch takes longer than a turn, and a full input desk holds it up.
    """

    def __init__(
        self, layout: Layout, link: SubscriptionLink, rooms: Rooms, keys: KeyCache, desk: InputDesk, log: Any
    ) -> None:
        self._layout = layout
        self._link = link
        self._log = Repeated(log)
        self._rooms = rooms
        self._keys = keys
        self._desk = desk
        self._key_changes = layout.key_changes().encode()
        self._wanted: list[Confirmation] = []

    @property
    def is_deaf(self) -> bool:
        """Whether the link is up, but control input or changes of keys are not heard: not confirmed yet, or refused."""
        return self._link.state.up and not (self._wanted and all(each.confirmed for each in self._wanted))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the broker-wide subscriptions wanted, until cancelled; started when they are settled or overdue."""
        # The pattern first: claims go by when the connection's first subscription began.
        subscribers = (
            partial(self._link.psubscribe, self._layout.control_pattern().encode()),
            partial(self._link.subscribe, self._key_changes),
        )
        self._wanted = [subscribe() for subscribe in subscribers]
        async with trio.open_nursery() as subscriptions:
            for place, subscribe in enumerate(subscribers):
                subscriptions.start_soon(self._keep, place, subscribe)
            with trio.move_on_after(CONFIRM_SECONDS):
                for confirmation in list(self._wanted):
                    with suppress(RedisError):
                        await confirmation.wait()
            task_status.started()

    async def _keep(self, place: int, subscribe: Callable[[], Confirmation]) -> None:
        """Ask again whenever the server has refused, at the start or on any later connection."""
        while True:
            try:
                error = await self._wanted[place].refused()
            except SubscriptionEnded:
                return  # given up at the end, in the very moment in which it was settled
            name = self._wanted[place].name.decode()
            self._log.error(name, "a subscription is refused", channel=name, error=error)
            await trio.sleep(REFUSED_SECONDS)
            self._wanted[place] = confirmation = subscribe()
            confirmation.when_settled(self._on_late)

    def _on_late(self, error: Exception | None) -> None:
        """Changes of keys went by unheard while the server refused."""
        if error is None:
            self._keys.suspect_all()

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
