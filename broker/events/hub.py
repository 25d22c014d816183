"""Who is subscribed to what: channels, their subscribers, and the subscription at Redis that they share."""

from collections.abc import Callable
from typing import Protocol

import attrs
import trio

from broker.link.confirmation import Confirmation
from broker.link.subscriptions import SubscriptionLink
from broker.store.layout import Layout


class Subscriber(Protocol):
    """Something that takes a channel's frames: a connection's outbox, or a catch-up that holds them back."""

    @property
    def write(self) -> Callable[[bytes], int]:
        """Take joined frames at once and return how many bytes were taken; may raise OSError."""

    def rest(self, data: bytes, taken: int) -> bool:
        """Deal with what `write` has left, see `Outbox.rest`; returns whether `data` is going to arrive."""


@attrs.define(eq=False)
class Channel:
    """One channel that somebody here wants.

    Attributes:
        name: as clients say it, without the installation's prefix.
        holders: sessions that are subscribed or are about to be; at zero the subscription at Redis is given up.
        confirmation: Redis's word that it was heard.
        subscribers: session id -> where its frames go.
        frames, bytes: all that was delivered to each of those who were there all the time.
        departures: how many subscribers have left, so that a fan-out that paused knows whether to look again.
    """

    name: str
    confirmation: Confirmation
    holders: int = 0
    subscribers: dict[str, Subscriber] = attrs.field(factory=dict)
    frames: int = 0
    bytes: int = 0
    departures: int = 0


class Hub:
    """All channels of this broker; subscribing costs the same however many others there are."""

    def __init__(self, link: SubscriptionLink, layout: Layout) -> None:
        self._link = link
        self._layout = layout
        self.channels: dict[bytes, Channel] = {}

    def redis_name(self, channel: str) -> bytes:
        """Return a channel's name at Redis."""
        return self._layout.event(channel).encode()

    def hold(self, name: str) -> Channel:
        """Ask for a channel; its `confirmation` says when Redis delivers it. Every hold wants one `release`."""
        redis_name = self.redis_name(name)
        channel = self.channels.get(redis_name)
        if channel is None:
            channel = self.channels[redis_name] = Channel(name, self._link.subscribe(redis_name))
        channel.holders += 1
        return channel

    def release(self, channel: Channel, session_id: str) -> None:
        """Give a channel up for one session; the last one ends the subscription at Redis."""
        channel.subscribers.pop(session_id, None)
        channel.departures += 1
        channel.holders -= 1
        if channel.holders == 0:
            redis_name = self.redis_name(channel.name)
            if self.channels.get(redis_name) is channel:
                del self.channels[redis_name]
                self._link.unsubscribe(redis_name)

    @property
    def subscriptions(self) -> int:
        """How many (session, channel) pairs there are; for status pages, it walks all channels."""
        return sum(len(channel.subscribers) for channel in self.channels.values())


class WriteBudget:
    """Keeps a fan-out from holding the loop: a checkpoint after `WRITES` writes or `SECONDS` seconds.

    A long fan-out is cut into slices; between them every other task has its turn, control work included.
    """

    WRITES = 256
    SECONDS = 0.002

    __slots__ = ("_clock", "_left", "_until")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left = self.WRITES
        self._until = clock() + self.SECONDS

    async def pause_if_spent(self) -> bool:
        """Let others run when the budget is spent; returns whether they did."""
        if self._left > 0 and self._clock() < self._until:
            return False
        await trio.lowlevel.checkpoint()
        self._left = self.WRITES
        self._until = self._clock() + self.SECONDS
        return True

    def spend(self, writes: int) -> None:
        """Note writes that were made."""
        self._left -= writes
