"""The seam between kept events and live ones, and between two connections to Redis."""

import json

import pytest

from broker.events.catchup import CatchUp
from broker.events.fanout import FanOut
from broker.events.hub import Channel, Hub
from broker.link.address import Address
from broker.link.subscriptions import SubscriptionLink
from broker.observe import Counters
from broker.store.layout import Layout
from protocol.frames import text_frame

NAME = b"workflow:a"


class Client:
    """A subscriber that takes everything, and knows what it has got."""

    window = 0
    raw = None

    def __init__(self) -> None:
        self.got: list[str] = []

    def write(self, data: bytes) -> int:
        for each in _payloads(data):
            message = json.loads(each)
            self.got.append(message.get("offset") or message["type"])
        return len(data)

    def rest(self, data: bytes, taken: int) -> bool:
        return False


def _payloads(data: bytes) -> list[bytes]:
    found = []
    while data:
        length, head = (data[1], 2) if data[1] < 126 else (int.from_bytes(data[2:4]), 4)
        found.append(data[head : head + length])
        data = data[head + length :]
    return found


def event(*offsets: str) -> bytes:
    """Return the frames of events with these offsets, joined as a fan-out does."""
    return b"".join(text_frame(payload(offset)) for offset in offsets)


def payload(offset: str) -> bytes:
    """Return one event; one without history for ""."""
    more = {"offset": offset} if offset else {}
    return json.dumps({"type": "plain", "channel": "workflow:a", **more}).encode()


@pytest.fixture
def hub() -> Hub:
    """Return a hub on a link that is not connected."""
    return Hub(SubscriptionLink(Address.parse("redis://127.0.0.1:1"), "events"), Layout())


@pytest.fixture
def channel(hub: Hub) -> Channel:
    """Return a channel that Redis has confirmed."""
    made = hub.hold("workflow:a")
    made.confirmation.confirm(0, 1)
    return made


def test_an_event_that_was_read_and_comes_late() -> None:
    """What the history had is not sent again, though it comes by the live way after the recovery is over."""
    client, catch_up, closed = Client(), CatchUp(10_000), []
    catch_up.write(event("1-2", "1-3"))
    held = catch_up.release("1-3", client, lambda: closed.append(len(client.got)))
    assert held == []
    for data in (event("1-4"), event("1-5", "1-6"), event("1-7")):
        catch_up.write(data)
    assert client.got == ["1-4", "1-5", "1-6", "1-7"]
    late, closed = Client(), []
    catch_up = CatchUp(10_000)
    assert catch_up.release("1-5", late, lambda: closed.append(len(late.got))) == []
    for data in (event("1-4"), event("", "1-5"), event("1-5", "1-6", "1-7")):
        catch_up.write(data)
    assert late.got == ["plain", "1-6", "1-7"]
    assert closed == [1], "the seam is closed by the first newer event, and before it is passed on"


def test_what_was_held_back_goes_out_once() -> None:
    """Of what came while the history was read, only what the history had not is sent; without a recovery all of it."""
    catch_up = CatchUp(10_000)
    catch_up.write(event("1-2", "1-3"))
    catch_up.write(event("1-4"))
    assert catch_up.release("1-3", Client(), lambda: None) == [event("1-4")]
    catch_up = CatchUp(10_000)
    catch_up.write(event("1-2", "1-3"))
    assert catch_up.release("", Client(), lambda: None) == [event("1-2"), event("1-3")]


def test_no_room() -> None:
    """A catch-up that would hold too much says so."""
    catch_up = CatchUp(100)
    assert catch_up.write(event("1-1")) > 0
    assert catch_up.write(event("1-2")) == 0
    assert catch_up.overflowed


async def test_a_fan_out_that_is_under_way(hub: Hub, channel: Channel) -> None:
    """Whoever goes live in the middle of a fan-out gets the rest of it once."""
    fan_out = FanOut(hub, Counters(), 65536)
    client, catch_up = Client(), CatchUp(10_000)
    channel.join("s", catch_up)
    roster = channel.rosters()[0]
    catch_up.release("1-2", client, lambda: channel.join("s", client))
    assert roster.is_current(channel.version), "a fan-out that has paused still finds the catch-up on its list"
    for offset in ("1-2", "1-3", "1-4"):
        await fan_out.on_batch([[b"message", NAME, payload(offset)]])
    assert client.got == ["1-3", "1-4"]
    assert channel.subscribers["s"] is client


async def test_a_gap_is_told_of_before_anything_newer(hub: Hub, channel: Channel) -> None:
    """After a break of the link a subscriber hears of it before the next event, once; a newcomer not at all."""
    fan_out = FanOut(hub, Counters(), 65536)
    client = Client()
    channel.join("s", client)
    await fan_out.on_batch([[b"message", NAME, payload("1-1")]])
    channel.confirmation.confirm(0, 2)
    await fan_out.on_batch([[b"message", NAME, payload("1-3")]])
    newcomer = Client()
    channel.join("t", newcomer)
    await fan_out.on_batch([[b"message", NAME, payload("1-4")]])
    assert client.got == ["1-1", "resync_required", "1-3", "1-4"]
    assert newcomer.got == ["1-4"]
