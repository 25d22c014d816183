"""One wanted subscription, from the wish to the server's confirmation, over all reconnects."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from broker.link.errors import SubscriptionEnded

Settled = Callable[[Exception | None], None]


@attrs.define(eq=False)
class Confirmation:
    """A channel or pattern that a link keeps subscribed, and whether the server has said so on this connection.

    `subscribed_at` is the server's time in milliseconds just before it executed the latest confirmed SUBSCRIBE:
    what was published earlier cannot have been heard by it. `generation` is the connection that it belongs to.
    """

    name: bytes
    pattern: bool = False
    confirmed: bool = False
    error: Exception | None = None
    ended: bool = False
    subscribed_at: int = 0
    generation: int = 0
    _changed: trio.Event = attrs.field(factory=trio.Event)
    _callbacks: list[Settled] = attrs.field(factory=list)

    async def wait(self) -> None:
        """Return when the server has confirmed; while the link is down, the request stays pending.

        Raises the server's error when it refuses (`redis.exceptions.NoPermissionError`, for one), and
        SubscriptionEnded when the subscription is given up meanwhile.
        """
        while not self.confirmed:
            if self.ended:
                raise SubscriptionEnded(f"the subscription to {self.name!r} was given up")
            if self.error is not None:
                raise self.error
            await self._changed.wait()

    async def refused(self) -> Exception:
        """Return the server's error as soon as it refuses, on this connection or a later one.

        Raises SubscriptionEnded when the subscription is given up meanwhile.
        """
        while self.error is None:
            if self.ended:
                raise SubscriptionEnded(f"the subscription to {self.name!r} was given up")
            await self._changed.wait()
        return self.error

    def when_settled(self, callback: Settled) -> None:
        """Call back once, synchronously: with None when confirmed, with the error when refused or given up.

        The confirmation's place in the stream is kept: the messages before it have been handed out, those after it
        have not. At once, if it is settled already.
        """
        if self.confirmed:
            callback(None)
        elif self.ended:
            callback(SubscriptionEnded(f"the subscription to {self.name!r} was given up"))
        elif self.error is not None:
            callback(self.error)
        else:
            self._callbacks.append(callback)

    def _settle(self, error: Exception | None) -> None:
        self._changed.set()
        self._changed = trio.Event()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(error)

    def confirm(self, subscribed_at: int, generation: int) -> None:
        """Note the server's confirmation (the link's to call)."""
        self.subscribed_at = subscribed_at
        self.generation = generation
        if not self.ended:
            self.confirmed = True
            self.error = None
            self._settle(None)

    def refuse(self, error: Exception) -> None:
        """Note the server's refusal (the link's to call)."""
        if not self.ended:
            self.confirmed = False
            self.error = error
            self._settle(error)

    def unconfirm(self) -> None:
        """Back to pending: the connection is gone (the link's to call)."""
        self.confirmed = False
        self.error = None

    def end(self) -> None:
        """Nobody wants it any more (the link's to call)."""
        if not self.ended:
            self.ended = True
            self.confirmed = False
            self._settle(SubscriptionEnded(f"the subscription to {self.name!r} was given up"))
