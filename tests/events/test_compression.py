"""Compression on the event socket: once per publication, the same bytes for all, in a form that each can read."""

import json
import zlib

import pytest
import trio
from wsproto.extensions import PerMessageDeflate

from broker.config import Config, Control, Events
from broker.events.catchup import CatchUp
from broker.events.packing import LONG_BYTES, WORTH_BYTES, Packer
from broker.observe import Counters
from broker.store.drive import run_sync
from broker.store.keys import add_key
from broker.store.layout import Layout
from broker.wire.turn import Turn
from protocol.frames import text_frame
from tests.conftest import Valkey
from tests.events.parts import Listener, Stage, frames, message, payload
from tests.support import Closed, WsClient
from tests.support.whole import Whole, whole_broker

A = "workflow:a"


class Browser(Listener):
    """A subscriber that agreed on compression."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window

    @property
    def numbers(self) -> list[int]:
        """The numbers of the events that came, inflated with no larger window than was agreed on."""
        return [json.loads(each)["number"] for data in self.writes for each in inflated(data, self.window)]


def inflated(data: bytes, window: int) -> list[bytes]:
    """Return the messages of joined frames, compressed or not."""
    found = []
    while data:
        length, head = (data[1], 2) if data[1] < 126 else (int.from_bytes(data[2:4], "big"), 4)
        if data[1] == 127:
            length, head = int.from_bytes(data[2:10], "big"), 10
        body = data[head : head + length]
        if data[0] & 0x40:
            body = zlib.decompressobj(-window).decompress(body + b"\x00\x00\xff\xff")
        found.append(body)
        data = data[head + length :]
    return found


async def test_each_gets_the_form_that_he_agreed_on() -> None:
    """Plain and compressed subscribers get the same events; those who share a window get the same bytes."""
    stage = Stage()
    channel = stage.channel(A)
    everybody = [Listener(), Browser(15), Browser(9), Browser(15)]
    for number, listener in enumerate(everybody):
        channel.join(str(number), listener)
    await stage.fan_out.on_batch([message(A, 1, padding=3000), message(A, 2), message(A, 3, padding=1000)])
    assert [listener.numbers for listener in everybody] == [[1, 2, 3]] * 4
    assert everybody[1].writes[0] is everybody[3].writes[0]
    assert len(everybody[1].writes[0]) < 1000 < len(everybody[0].writes[0])
    counters = stage.counters
    assert counters.deliveries == 12
    assert counters.publications_compressed == 4, "two of three were worth it, once for each window"
    assert counters.delivery_bytes == sum(len(data) for listener in everybody for data in listener.writes)
    assert channel.bytes == {window: sum(map(len, everybody[at].writes)) for window, at in ((0, 0), (15, 1), (9, 2))}
    assert counters.compressed_to_bytes < counters.compressed_from_bytes
    assert counters.compression_seconds > 0


@pytest.mark.parametrize(("size", "packed"), [(WORTH_BYTES - 1, False), (WORTH_BYTES, True)])
async def test_what_is_short_goes_as_it_is(size: int, packed: bool) -> None:
    """Only from 256 bytes on an event is compressed."""
    frame = text_frame(b"a" * size)
    form = await Packer(Counters()).pack(frame, 15, Turn())
    assert (form != frame) is packed
    assert inflated(form, 15) == [b"a" * size]


async def test_what_does_not_shrink_goes_as_it_is() -> None:
    """A frame that compression would make longer is left alone."""
    noise = text_frame(bytes((number * number * 7919) >> 7 & 0x7F for number in range(400)))
    counters = Counters()
    form = await Packer(counters).pack(noise, 15, Turn())
    assert len(form) <= len(noise)
    assert inflated(form, 15) == inflated(noise, 15)


async def test_what_is_long_is_compressed_beside_the_loop() -> None:
    """The loop goes on while a very long event is compressed."""
    frame = text_frame(json.dumps(list(range(LONG_BYTES // 4))).encode())
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        form = await Packer(Counters()).pack(frame, 15, Turn())
        nursery.cancel_scope.cancel()
    assert turns > 2
    assert inflated(form, 15) == inflated(frame, 15)


async def test_whoever_goes_live_in_the_middle_gets_everything_once() -> None:
    """A catch-up reads plain frames; that its client takes compressed ones makes no gap and no double at the seam."""
    stage = Stage()
    channel = stage.channel(A)
    other, client, catch_up = Browser(15), Browser(15), CatchUp(100_000)
    channel.join("0", other)
    channel.join("1", catch_up)
    held = catch_up.release("", client, lambda: channel.join("1", client))
    assert held == []
    for number in range(4):
        await stage.fan_out.on_batch([message(A, number, padding=500)])
    assert client.numbers == other.numbers == [0, 1, 2, 3]
    assert client.writes[0] == text_frame(payload(A, 0, padding=500)), "the catch-up passed this one on"
    assert client.writes[1] is other.writes[1]


async def test_whoever_leaves_during_a_pause_gets_nothing_more() -> None:
    """Others run while a long event is compressed; a subscriber that went in the meantime is not written to."""
    stage = Stage()
    channel = stage.channel(A)
    stays, goes = Browser(15), Browser(15)
    channel.join("0", stays)
    channel.join("1", goes)
    batch = [message(A, 1, padding=LONG_BYTES), message(A, 2)]

    async def leave() -> None:
        channel.leave("1")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.fan_out.on_batch, batch)
        nursery.start_soon(leave)
    assert stays.numbers == [1, 2]
    assert goes.writes == []


def test_without_compression_nothing_is_exchanged() -> None:
    """Everybody is on one roster, which serves for as long as nobody joins or leaves."""
    stage = Stage()
    channel = stage.channel(A)
    stage.listeners(channel, 3)
    rosters = channel.rosters()
    assert list(rosters) == [0]
    assert channel.rosters() is rosters
    assert frames(A, 1) == text_frame(payload(A, 1))


async def browser(broker: Whole, api_key: str) -> tuple[WsClient, PerMessageDeflate]:
    """Open an event socket as browsers do."""
    extension = PerMessageDeflate()
    target = f"/ws/?token={api_key}"
    return await WsClient.connect(broker.address, target, extensions=[extension]), extension


@pytest.mark.parametrize("on", [False, True])
async def test_from_the_handshake_to_an_event(valkey: Valkey, on: bool) -> None:
    """Compression is agreed on only if it is configured; commands and events pass either way."""
    api_key = run_sync(valkey.client, add_key(Layout(), "acme")).api_key
    async with whole_broker(valkey.url, Config(events=Events(compression=on))) as broker:
        client, extension = await browser(broker, api_key)
        async with client:
            assert extension.enabled() is on
            await client.send_json(type="subscribe", channel=A, padding="x" * 1000)
            assert (await client.receive_json())["type"] == "subscribed"
            event = {"type": "tick", "channel": A, "data": ["again"] * 200}
            valkey.client.publish(A, json.dumps(event))
            assert await client.receive_json() == event
            assert broker.counters.publications_compressed == on
            assert (broker.counters.delivery_bytes < 200) is on


async def test_a_bomb_closes_its_socket(valkey: Valkey) -> None:
    """A compressed message of a few bytes that means more than `max_message_bytes` ends in 1009."""
    api_key = run_sync(valkey.client, add_key(Layout(), "acme")).api_key
    async with whole_broker(valkey.url, Config(events=Events(compression=True))) as broker:
        client, _ = await browser(broker, api_key)
        await client.send('{"type": "pong"}')
        await client.send("x" * 70_000)
        closed = await client.wait_closed()
        assert isinstance(closed, Closed)
        assert closed.code == 1009
        await client.kill()


async def test_a_control_socket_is_never_compressed(valkey: Valkey) -> None:
    """Whatever an SDK offers, its decisions come as they are."""
    api_key = run_sync(valkey.client, add_key(Layout(), "acme")).api_key
    config = Config(events=Events(compression=True), control=Control(handshake_signature="optional"))
    async with whole_broker(valkey.url, config) as broker:
        extension = PerMessageDeflate()
        headers = {"X-API-Key": api_key}
        async with await WsClient.connect(broker.address, "/ws/control/acme", headers, extensions=[extension]) as agent:
            assert not extension.enabled()
            assert (await agent.receive_json())["type"] == "initial_state"
