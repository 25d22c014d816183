"""A link with subscriptions that survive reconnects."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from broker.link.address import Address
from broker.link.command import pack
from broker.link.confirmation import Confirmation
from broker.link.connection import Connection
from broker.link.link import Link
from broker.link.slots import OutOfStep

CHUNK = 500
"""Channels per SUBSCRIBE command."""

_TIME = pack("TIME")


class SubscriptionLink(Link):
    """A link that keeps a set of channels and patterns subscribed.

    `on_restored` is called, synchronously, when after a reconnect everything that was wanted at that moment is
    confirmed or refused again: what was published in between is lost, and this is the moment to look for it.
    The other parameters are those of Link.
    """

    def __init__(
        self, address: Address, name: str, *, on_restored: Callable[[], None] | None = None, **bounds: Any
    ) -> None:
        super().__init__(address, name, **bounds)
        self.subscribed_at = 0
        """The server's time in milliseconds just before the first SUBSCRIBE of this connection; 0 before that."""
        self._told = (0, 0.0)  # the server's clock in ms, and time.monotonic() when it told
        self._on_restored = on_restored
        self._wanted: dict[tuple[bool, bytes], Confirmation] = {}
        self._orders: list[tuple[bool, Confirmation]] = []  # (subscribe, which), in order, for the next write
        self._restoring: set[Confirmation] | None = None

    def server_ms(self) -> int:
        """Return the server's clock in milliseconds, as told at the subscription and carried on by ours; 0 before that.

        It is late by at most what the telling took, never early.
        """
        told, when = self._told
        return int(told + (time.monotonic() - when) * 1000) if told else 0

    @property
    def restoring(self) -> bool:
        """Whether the link is up again, and `on_restored` is still to come."""
        return self._restoring is not None

    @property
    def wanted(self) -> int:
        """How many channels and patterns are to be subscribed."""
        return len(self._wanted)

    def subscribe(self, channel: bytes) -> Confirmation:
        """Want a channel. Again for a wanted one is the same Confirmation; a refused one is tried again.

        What arrives is handed to `on_push` as [b"message", channel, payload].
        """
        return self._want(channel, pattern=False)

    def unsubscribe(self, channel: bytes) -> None:
        """Give a channel up; messages that are under way may still arrive. Nothing happens if it is not wanted."""
        self._give_up(channel, pattern=False)

    def psubscribe(self, pattern: bytes) -> Confirmation:
        """Want a glob-style pattern; its messages are [b"pmessage", pattern, channel, payload]."""
        return self._want(pattern, pattern=True)

    def punsubscribe(self, pattern: bytes) -> None:
        """Give a pattern up."""
        self._give_up(pattern, pattern=True)

    def _want(self, name: bytes, *, pattern: bool) -> Confirmation:
        confirmation = self._wanted.get((pattern, name))
        if confirmation is not None and confirmation.error is None:
            return confirmation
        confirmation = self._wanted[pattern, name] = Confirmation(name, pattern)
        self._order(confirmation, subscribe=True)
        return confirmation

    def _give_up(self, name: bytes, *, pattern: bool) -> None:
        confirmation = self._wanted.pop((pattern, name), None)
        if confirmation is not None:
            confirmation.end()
            self._order(confirmation, subscribe=False)

    def _order(self, confirmation: Confirmation, *, subscribe: bool) -> None:
        # Without a connection there is nothing to order: the next one begins with all that is wanted.
        if self._connection is not None and self._connection.error is None:
            self._orders.append((subscribe, confirmation))
            self._connection.wake_writer()

    def _restore(self, connection: Connection) -> None:
        self.subscribed_at = 0
        wanted = list(self._wanted.values())
        self._restoring = set(wanted)
        self._orders = [(True, confirmation) for confirmation in wanted]
        if wanted:
            connection.wake_writer()
        else:
            self._all_restored()

    def _lost(self) -> None:
        self._orders.clear()
        self._restoring = None
        for confirmation in self._wanted.values():
            confirmation.unconfirm()

    def _collect(self, connection: Connection) -> None:
        orders, self._orders = self._orders, []
        run: list[Confirmation] = []
        kind: tuple[bool, bool] | None = None
        for subscribe, confirmation in orders:
            if kind != (subscribe, confirmation.pattern) or len(run) == CHUNK:
                self._send(connection, kind, run)
                run, kind = [], (subscribe, confirmation.pattern)
            run.append(confirmation)
        self._send(connection, kind, run)

    def _send(self, connection: Connection, kind: tuple[bool, bool] | None, run: list[Confirmation]) -> None:
        if kind is None or not run:
            return
        subscribe, pattern = kind
        command = b"P" * pattern + (b"SUBSCRIBE" if subscribe else b"UNSUBSCRIBE")
        clock = _ClockSlot(self)
        if subscribe:
            connection.submit(_TIME, clock)
        slot = _SubscribeSlot(self, connection, clock, command.lower(), deque(run), subscribe)
        connection.submit(pack(command, *(each.name for each in run)), slot)

    def _settled(self, confirmation: Confirmation) -> None:
        if self._restoring is not None:
            self._restoring.discard(confirmation)
            if not self._restoring:
                self._all_restored()

    def _all_restored(self) -> None:
        self._restoring = None
        if self.generation > 1 and self._on_restored is not None:
            self._on_restored()


@attrs.define(eq=False)
class _ClockSlot:
    """The server's clock, just before the command behind it; ours, if the user may not run TIME."""

    link: SubscriptionLink
    ms: int = 0

    def settle(self, reply: object) -> None:
        try:
            pair: Any = reply  # an error is no pair
            seconds, micros = pair
            self.ms = int(seconds) * 1000 + int(micros) // 1000
        except (TypeError, ValueError, OverflowError):
            self.ms = int(time.time() * 1000)
        self.link._told = (self.ms, time.monotonic())
        if not self.link.subscribed_at:
            self.link.subscribed_at = self.ms

    def confirm(self, push: list[bytes]) -> bool:
        raise OutOfStep(f"a {push[0]!r} confirmation came in place of the time")

    def lost(self, error: Exception) -> None:
        """Do nothing: nobody waits for it."""


@attrs.define(eq=False)
class _SubscribeSlot:
    """A (P)SUBSCRIBE or (P)UNSUBSCRIBE: one confirmation push per channel, or one error reply for all of them."""

    link: SubscriptionLink
    connection: Connection
    clock: _ClockSlot
    verb: bytes
    due: deque[Confirmation]
    subscribe: bool

    def confirm(self, push: list[bytes]) -> bool:
        confirmation = self.due[0]
        if push[:2] != [self.verb, confirmation.name]:
            raise OutOfStep(f"a confirmation {push!r} in place of {self.verb!r} {confirmation.name!r}")
        self.due.popleft()
        if self.subscribe:
            confirmation.confirm(self.clock.ms, self.link.generation)
            self.link._settled(confirmation)
        return not self.due

    def settle(self, reply: object) -> None:
        if not isinstance(reply, Exception):
            raise OutOfStep("an ordinary reply came in place of a confirmation")
        if not self.subscribe:
            return
        if len(self.due) > 1:
            self._one_by_one(self.due)
            return
        for confirmation in self.due:
            confirmation.refuse(reply)
            self.link._settled(confirmation)

    def lost(self, error: Exception) -> None:
        """Do nothing: what is wanted stays wanted, and the next connection asks again."""

    def _one_by_one(self, refused: Iterable[Confirmation]) -> None:
        """One forbidden channel refuses the whole command: find out which it is."""
        for confirmation in refused:
            if confirmation.ended:  # the command that gave it up may be before this one, on its way already
                self.link._settled(confirmation)
                continue
            self.link._send(self.connection, (True, confirmation.pattern), [confirmation])
