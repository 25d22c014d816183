"""How many publications a channel may have, so that one publisher that runs wild does not starve all other channels."""

import trio

from broker.events.hub import Channel
from broker.wire.bucket import TokenBucket
from broker.wire.doorbell import Doorbell

BURST_SECONDS = 2.0
"""So many seconds' worth of publications may come at once."""

TOLD_AFTER = 1.0
"""Seconds from the first publication that is dropped to the word to subscribers. All that comes until then is dropped,
too: a client that has seen something newer would not ask for what is missing, should it be gone before the word."""


class PublicationRate:
    """Admits publications to channels, and gathers the channels whose subscribers must hear that some are missing.

    Attributes:
        per_second: of one channel, on average; there is room for `BURST_SECONDS` of it at once.
    """

    def __init__(self, per_second: float) -> None:
        self.per_second = per_second
        self._above: dict[int, Channel] = {}
        self._due: dict[int, Channel] = {}
        self._bell = Doorbell()

    def admit(self, channel: Channel, count: int, now: float) -> int:
        """Return how many of the next `count` publications may pass; the others are to be dropped."""
        bucket = channel.allowance
        if bucket is None or bucket.rate != self.per_second:
            size = max(1.0, self.per_second * BURST_SECONDS)
            bucket = channel.allowance = TokenBucket(size, self.per_second, now)
        admitted = bucket.grant(now, count)
        if admitted < count:
            self._above[id(channel)] = channel
            self._bell.ring()
        return admitted

    def is_cut(self, channel: Channel) -> bool:
        """Whether nothing may pass: something was dropped, and what is newer comes behind the word of that."""
        return id(channel) in self._above

    def is_due(self, channel: Channel) -> bool:
        """Whether it is time to tell subscribers, before anything newer."""
        return id(channel) in self._due

    def note_told(self, channel: Channel) -> None:
        """Take note that subscribers have been told."""
        self._due.pop(id(channel), None)

    async def next_to_tell(self) -> list[Channel]:
        """Wait for channels whose subscribers have missed something; each is given once for a second of it."""
        await self._bell.wait()
        await trio.sleep(TOLD_AFTER)
        self._bell.forget()
        channels = list(self._above.values())
        self._due.update(self._above)
        self._above.clear()
        return channels
