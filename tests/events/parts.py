"""What the tests of fan-out and sessions are made of: a hub, events, and subscribers that remember."""

import json
from collections.abc import Callable

from broker.events.catchup import split_frames
from broker.events.fanout import FanOut
from broker.events.hub import Channel, Hub
from broker.link.address import Address
from broker.link.subscriptions import SubscriptionLink
from broker.observe import Counters
from broker.store.layout import Layout
from protocol.frames import text_frame


def unconnected_hub() -> Hub:
    """Return a hub whose link is not connected: tests confirm subscriptions themselves."""
    return Hub(SubscriptionLink(Address.parse("redis://127.0.0.1:1"), "events"), Layout())


def payload(channel: str, number: int, padding: int = 0) -> bytes:
    """Return one event, numbered."""
    return json.dumps({"type": "tick", "channel": channel, "number": number, "padding": "x" * padding}).encode()


def frames(channel: str, *numbers: int) -> bytes:
    """Return the frames of numbered events, joined."""
    return b"".join(text_frame(payload(channel, number)) for number in numbers)


def message(channel: str, number: int, padding: int = 0) -> list[bytes]:
    """Return a numbered event as the link hands it over."""
    return [b"message", channel.encode(), payload(channel, number, padding)]


class Listener:
    """A subscriber that takes all, or what `takes` says.

    Attributes:
        writes: what each write brought.
        rests: what was left of writes: (data, taken).
    """

    window = 0
    raw = None

    def __init__(self, takes: Callable[[bytes], int] = len) -> None:
        self.takes = takes
        self.writes: list[bytes] = []
        self.rests: list[tuple[bytes, int]] = []
        self.arrives = False

    def write(self, data: bytes) -> int:
        """Take some of it."""
        self.writes.append(data)
        return self.takes(data)

    def rest(self, data: bytes, taken: int) -> bool:
        """Remember what was left."""
        self.rests.append((data, taken))
        return self.arrives

    @property
    def numbers(self) -> list[int]:
        """The numbers of the events that came, in their order."""
        return [json.loads(bytes(each))["number"] for data in self.writes for _, each in split_frames(data)]


class Stage:
    """A hub, its fan-out and their counters."""

    def __init__(self, max_publication_bytes: int = 1 << 20) -> None:
        self.hub = unconnected_hub()
        self.counters = Counters()
        self.fan_out = FanOut(self.hub, self.counters, max_publication_bytes)

    def channel(self, name: str) -> Channel:
        """Return a channel that Redis has confirmed."""
        channel = self.hub.hold(name)
        channel.confirmation.confirm(0, 1)
        return channel

    def listeners(self, channel: Channel, count: int) -> list[Listener]:
        """Subscribe so many, as sessions "0", "1" ..."""
        made = [Listener() for _ in range(count)]
        for number, listener in enumerate(made):
            channel.join(str(number), listener)
        return made
