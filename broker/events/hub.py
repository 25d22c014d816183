"""Who is subscribed to what: channels, their subscribers, and the subscription at Redis that they share."""

from collections import defaultdict

import attrs

from broker.events.roster import Roster, Subscriber, rosters_of
from broker.link.confirmation import Confirmation
from broker.link.subscriptions import SubscriptionLink
from broker.store.layout import Layout
from broker.wire.bucket import TokenBucket

REFUSED = -1
"""In place of a generation: Redis does not let us hear the channel any more."""


@attrs.define(eq=False)
class Channel:
    """One channel that somebody here wants.

    Attributes:
        name: as clients say it, without the installation's prefix.
        holders: sessions that are subscribed or are about to be; at zero the subscription at Redis is given up.
        confirmation: Redis's word that it was heard.
        subscribers: session id -> where its frames go.
        frames, bytes: all that was delivered to each of those who were there all the time; bytes by their window.
        version: rises whenever somebody joins or leaves.
        allowance: what it may still have, see `PublicationRate`.
        told: which connection to Redis (its generation) subscribers know to have begun, and may have missed something;
            REFUSED: they know that they miss everything.
    """

    name: str
    confirmation: Confirmation
    holders: int = 0
    subscribers: dict[str, Subscriber] = attrs.field(factory=dict)
    frames: int = 0
    bytes: dict[int, int] = attrs.field(factory=lambda: defaultdict(int))
    version: int = 0
    told: int = 0
    allowance: TokenBucket | None = None
    _rosters: dict[int, Roster] = attrs.field(factory=dict)

    def join(self, session_id: str, subscriber: Subscriber) -> None:
        """Deliver to `subscriber` from now on, in place of whatever the session had here."""
        if not self.subscribers:
            self.told = self.hearing
        self.subscribers[session_id] = subscriber
        self.version += 1

    def leave(self, session_id: str) -> None:
        """Deliver nothing more to a session; a fan-out that has paused skips it."""
        self.subscribers.pop(session_id, None)
        self.version += 1
        self._rosters = {}  # they would keep what thousands leave behind, and free all of it in one step

    @property
    def is_refused(self) -> bool:
        """Whether Redis has refused it at the last try."""
        return self.confirmation.error is not None

    @property
    def hearing(self) -> int:
        """The generation of the connection to Redis by which it was heard last; REFUSED if there is none now."""
        return REFUSED if self.is_refused else self.confirmation.generation

    @property
    def has_gap(self) -> bool:
        """Whether Redis was subscribed to anew, or refuses, and subscribers have not been told what that means."""
        return self.told != self.hearing

    def rosters(self) -> dict[int, Roster]:
        """Return who is here now, by the window of what they take; the same lists serve for as long as nothing changes.

        They are of one moment: whoever is exchanged for another while one of them is written to is on no other.
        """
        rosters = self._rosters
        if not rosters or not rosters[0].is_current(self.version):
            rosters = self._rosters = rosters_of(self.subscribers.values(), self.version)
        return rosters

    def remaining(self, roster: Roster, done: int) -> Roster:
        """Return those of `roster` from place `done` on who are still here, as they take their frames now."""
        rest = roster.subscribers[done:]
        if roster.version != self.version:
            present = set(self.subscribers.values())
            rest = [subscriber for subscriber in rest if subscriber in present]
        return Roster(rest, self.version)


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

    def hold_again(self, channel: Channel) -> Confirmation:
        """Ask once more for a channel that Redis has refused."""
        channel.confirmation = self._link.subscribe(self.redis_name(channel.name))
        return channel.confirmation

    def release(self, channel: Channel, session_id: str) -> None:
        """Give a channel up for one session; the last one ends the subscription at Redis."""
        channel.leave(session_id)
        channel.holders -= 1
        if channel.holders == 0:
            redis_name = self.redis_name(channel.name)
            if self.channels.get(redis_name) is channel:
                del self.channels[redis_name]
                self._link.unsubscribe(redis_name)

    @property
    def subscriptions(self) -> int:
        """How many (session, channel) pairs there are; counted anew: it walks all channels."""
        return sum(len(channel.subscribers) for channel in self.channels.values())
