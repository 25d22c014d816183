"""How large and how frequent publications may be: at each bound, and just inside it."""

import json

import pytest
import trio
import trio.testing

from broker.events.fanout import FanOut
from broker.events.hub import Channel, Hub
from broker.events.rate import PublicationRate
from broker.link.address import Address
from broker.link.subscriptions import SubscriptionLink
from broker.observe import Counters
from broker.store.layout import Layout
from tests.events.test_seam import NAME, Client, channel, hub, payload

__all__ = ["channel", "hub"]  # fixtures


def push(data: bytes) -> list[bytes]:
    """Return a publication as the link brings it."""
    return [b"message", NAME, data]


@pytest.mark.parametrize(("size", "delivered"), [(256, 1), (257, 0)])
async def test_size_of_a_publication(hub: Hub, channel: Channel, size: int, delivered: int) -> None:
    """A publication of exactly `max_publication_bytes` is delivered, one byte more is dropped and counted."""
    counters, client = Counters(), Client()
    channel.join("s", client)
    data = payload("")
    data = data[:-1] + b',"data":"' + b"x" * (size - len(data) - 10) + b'"}'
    assert len(data) == size
    assert json.loads(data)
    await FanOut(hub, counters, 256).on_batch([push(data)])
    assert len(client.got) == counters.publications == delivered
    assert counters.publications_dropped["too_big"] == 1 - delivered


def test_rate_of_publications(channel: Channel) -> None:
    """A channel has two seconds' worth at once and then its rate; a rate that is set anew holds from then on."""
    rate = PublicationRate(10)
    assert [rate.admit(channel, 10, now) for now in (0, 0, 0, 0.5, 0.5, 10)] == [10, 10, 0, 5, 0, 10]
    rate.per_second = 1
    assert rate.admit(channel, 10, 11) == 2


async def test_a_flood_is_cut_and_told(
    hub: Hub, channel: Channel, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """What is above the rate is dropped and counted, and a second later its subscribers hear that they missed some."""
    counters, client = Counters(), Client()
    fan_out = FanOut(hub, counters, 65536, publications_per_second=0.1)
    await nursery.start(fan_out.run)
    channel.join("s", client)
    await fan_out.on_batch([push(payload("1-1"))])
    await trio.sleep(5)
    assert client.got == ["1-1"]
    assert not counters.publications_dropped
    for _ in range(3):
        await fan_out.on_batch([push(payload(""))] * 20)
    await trio.sleep(5)
    assert client.got[1:] == ["resync_required"]
    assert counters.publications_dropped["rate_limited"] == 60
    nursery.cancel_scope.cancel()


async def test_nothing_newer_passes_before_a_flood_is_told_of(
    hub: Hub, channel: Channel, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A client that goes before it hears of the flood has seen nothing behind it, and asks for all of it by `since`."""
    counters, client = Counters(), Client()
    fan_out = FanOut(hub, counters, 65536, publications_per_second=0.1)
    await nursery.start(fan_out.run)
    channel.join("s", client)
    for offset in ("1-1", "1-2"):
        await fan_out.on_batch([push(payload(offset))])
    fan_out.rate.per_second = 100
    await fan_out.on_batch([push(payload("1-3"))])
    assert client.got == ["1-1"]
    await trio.sleep(5)
    await fan_out.on_batch([push(payload("1-4"))])
    assert client.got == ["1-1", "resync_required", "1-4"]
    assert counters.publications_dropped["rate_limited"] == 2
    nursery.cancel_scope.cancel()


async def test_a_flood_is_told_of_before_anything_newer_also_if_nobody_has_yet(
    hub: Hub, channel: Channel, autojump_clock: trio.testing.MockClock
) -> None:
    """What comes when it is time tells of it by itself: once."""
    client = Client()
    fan_out = FanOut(hub, Counters(), 65536, publications_per_second=0.1)
    channel.join("s", client)
    await fan_out.on_batch([push(payload("1-1")), push(payload("1-2"))])
    fan_out.rate.per_second = 100
    assert await fan_out.rate.next_to_tell() == [channel]
    for offset in ("1-3", "1-4"):
        await fan_out.on_batch([push(payload(offset))])
    assert client.got == ["1-1", "resync_required", "1-3", "1-4"]


async def test_each_flood_is_told_of_once(hub: Hub, channel: Channel, autojump_clock: trio.testing.MockClock) -> None:
    """A channel whose flood was told is not told of again when it is another one that is above its rate."""
    other, rate = hub.hold("workflow:other"), PublicationRate(1)
    assert rate.admit(channel, 10, 0) == 2
    assert await rate.next_to_tell() == [channel]
    assert rate.admit(other, 10, 0) == 2
    assert await rate.next_to_tell() == [other]
    with trio.move_on_after(60) as patience:
        await rate.next_to_tell()
    assert patience.cancelled_caught


def test_the_last_to_leave_ends_the_subscription() -> None:
    """A channel is wanted from Redis for as long as somebody here wants it, and no longer."""
    link = SubscriptionLink(Address.parse("redis://127.0.0.1:1"), "events")
    hub = Hub(link, Layout())
    first, second = hub.hold("workflow:a"), hub.hold("workflow:a")
    assert first is second
    hub.release(first, "1")
    assert (link.wanted, len(hub.channels)) == (1, 1)
    hub.release(second, "2")
    assert (link.wanted, len(hub.channels)) == (0, 0)
