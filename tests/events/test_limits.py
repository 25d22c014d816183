"""How large and how frequent publications may be: at each bound, and just inside it."""

import json

import pytest
import trio
import trio.testing

from broker.events.fanout import FanOut
from broker.events.hub import Channel, Hub
from broker.events.rate import PublicationRate
from broker.observe import Counters
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
