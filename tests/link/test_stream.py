"""Whatever way the server's bytes are cut, their order and meaning stay; and no bytes at all do any harm."""

from __future__ import annotations

import contextlib

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.exceptions import RedisError

from broker.link.connection import Connection
from broker.link.dial import READ_SIZE, Dialled
from broker.link.parser import Parser
from broker.link.slots import CallSlot

Item = tuple[str, bytes]
payloads = st.binary(max_size=40)
items = st.lists(st.tuples(st.sampled_from(["message", "reply", "error"]), payloads), max_size=30)


def on_the_wire(item: Item) -> bytes:
    """Write one item as a server does."""
    kind, payload = item
    bulk = b"$%d\r\n%b\r\n" % (len(payload), payload)
    return {
        "message": b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n" + bulk,
        "reply": bulk,
        "error": b"-ERR " + payload.hex().encode() + b"\r\n",
    }[kind]


class Harness:
    """A connection over a stream in memory, and what it handed over."""

    def __init__(self) -> None:
        ours, self.server = trio.testing.memory_stream_pair()
        assert isinstance(ours.receive_stream, trio.testing.MemoryReceiveStream)
        self.messages: list[bytes] = []
        self.connection = Connection(
            Dialled(
                stream=ours,
                read=lambda: ours.receive_some(READ_SIZE),
                close=ours.receive_stream.close,
                parser=Parser(),
                hello={},
            ),
            on_push=self._on_push,
            on_failure=lambda _error: None,
            flush=lambda _connection: None,
            ping_interval=5,
            ping_timeout=5,
            max_reply_bytes=1_000_000,
        )

    async def _on_push(self, batch: list[list[bytes]]) -> None:
        await trio.lowlevel.checkpoint()
        self.messages.extend(message[-1] for message in batch)

    async def serve(self, sent: bytes, cuts: list[int]) -> None:
        """Let the server send this, cut here and there, and go away; returns when the connection has ended."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.connection.run)
            start = 0
            for end in [*sorted(cut % (len(sent) + 1) for cut in cuts), len(sent)]:
                await self.server.send_all(sent[start:end])
                await trio.testing.wait_all_tasks_blocked()
                start = end
            await self.server.aclose()
        assert self.connection.error is not None


async def outcome(slot: CallSlot) -> Item:
    """What came to a call."""
    try:
        reply = await slot.wait()
    except RedisError as error:
        return ("error", str(error).encode())
    assert isinstance(reply, bytes)
    return ("reply", reply)


@settings(max_examples=60, deadline=None)
@given(sent=items, cuts=st.lists(st.integers(0, 2000), max_size=8))
async def test_any_cut(sent: list[Item], cuts: list[int]) -> None:
    """Messages come in order, and each call gets its own reply, however the stream is cut."""
    harness = Harness()
    slots = [CallSlot() for kind, _ in sent if kind != "message"]
    for slot in slots:
        harness.connection.submit(b"", slot)
    await harness.serve(b"".join(map(on_the_wire, sent)), cuts)
    assert harness.messages == [payload for kind, payload in sent if kind == "message"]
    expected = [(kind, payload if kind == "reply" else payload.hex().encode()) for kind, payload in sent]
    assert [await outcome(slot) for slot in slots] == [item for item in expected if item[0] != "message"]


resp = st.recursive(
    st.one_of(
        st.sampled_from(
            [b"+OK\r\n", b":1\r\n", b"_\r\n", b"#t\r\n", b",1.5\r\n", b"$-1\r\n", b"(9\r\n", b"-ERR x\r\n"]
        ),
        payloads.map(lambda payload: b"$%d\r\n%b\r\n" % (len(payload), payload)),
        st.sampled_from([b"$9\r\nsubscribe\r\n", b"$12\r\npunsubscribe\r\n", b"$7\r\nmessage\r\n"]),
    ),
    lambda inner: st.tuples(st.sampled_from([b"*", b">", b"%", b"~", b"|"]), st.lists(inner, max_size=4)).map(
        lambda made: b"%b%d\r\n%b" % (made[0], len(made[1]), b"".join(made[1]))
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(sent=st.lists(st.one_of(resp, st.binary(max_size=30)), max_size=6), calls=st.integers(0, 3))
async def test_any_bytes(sent: list[bytes], calls: int) -> None:
    """Whatever a server sends, the connection ends with an error of its own, and no call is left without an answer."""
    harness = Harness()
    slots = [CallSlot() for _ in range(calls)]
    for slot in slots:
        harness.connection.submit(b"", slot)
    await harness.serve(b"".join(sent), [])
    for slot in slots:
        with contextlib.suppress(RedisError):
            await slot.wait()
