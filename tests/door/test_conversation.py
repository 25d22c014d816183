"""HTTP over a wire that exists only in memory: any bytes, and exact times."""

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from broker.http.answer import Refused, json_answer
from broker.http.conversation import ConnectionOver, Conversation
from tests.door.conftest import BOUNDS

REQUEST = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"


@attrs.define
class MemoryWire:
    """Yields `pieces`, one for each read and each `pause` seconds after the last, and then the end of the stream."""

    pieces: list[bytes]
    pause: float = 0.0
    sent: bytes = b""
    stuck: bool = False

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        await trio.sleep(self.pause)
        return self._next(max_bytes)

    def receive_nowait(self, max_bytes: int = 65536) -> bytes:
        if self.pause:
            raise trio.WouldBlock
        return self._next(max_bytes)

    def _next(self, max_bytes: int) -> bytes:
        if not self.pieces:
            return b""
        piece, self.pieces[0] = self.pieces[0][:max_bytes], self.pieces[0][max_bytes:]
        if not self.pieces[0]:
            del self.pieces[0]
        return piece

    async def send_all(self, data: bytes) -> None:
        if self.stuck:
            await trio.sleep_forever()
        self.sent += data

    async def send_raw(self, data: bytes) -> None:
        await self.send_all(data)

    def unread(self, data: bytes) -> None:
        self.pieces.insert(0, data)

    def farewell(self) -> bytes:
        return b""

    def shutdown(self) -> None:
        pass


async def serve(wire: MemoryWire) -> list[str]:
    """Answer everything that comes over a wire; returns the paths, then how it ended."""
    conversation = Conversation(wire, BOUNDS)
    seen: list[str] = []
    while True:
        try:
            request = await conversation.next_request(trio.current_time() + BOUNDS.handshake_timeout)
            seen.append(request.path)
            if request.has_body:
                seen.append((await conversation.body()).hex())
            answer = json_answer(200, {})
        except Refused as refused:
            seen.append(str(refused.answer.status))
            answer = refused.answer
        except ConnectionOver:
            return seen
        if not await conversation.answer(answer):
            return seen


WORDS = (
    b"GET |POST |HEAD |/ws/ |/health/live |HTTP/1.1\r\n|HTTP/1.0\r\n|Host: a\r\n|\r\n|\r\n\r\n|Content-Length: 3\r\n|"
    b"Transfer-Encoding: chunked\r\n|Connection: close\r\n|Upgrade: websocket\r\n|Expect: 100-continue\r\n|"
    b"3\r\nabc\r\n|0\r\n\r\n|X: \xff\r\n|GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
).split(b"|")

HTTPISH = st.lists(st.one_of(st.binary(max_size=30), st.sampled_from(WORDS)), max_size=15)


@given(HTTPISH)
async def test_any_bytes_end_in_an_answer_or_in_silence(pieces: list[bytes]) -> None:
    """No bytes, in no pieces, raise anything that is not meant for the client."""
    await serve(MemoryWire([piece for piece in pieces if piece]))


@given(st.lists(st.integers(min_value=1, max_value=40), min_size=1, max_size=10))
async def test_how_bytes_are_cut_makes_no_difference(sizes: list[int]) -> None:
    """The same requests are understood however the network cuts them."""
    post = b"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    data = REQUEST + post + REQUEST
    pieces: list[bytes] = []
    at = 0
    while at < len(data):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[at : at + size])
        at += size
    assert await serve(MemoryWire(pieces)) == ["/health/live", "/p", "616263", "/health/live"]


async def test_head_deadline_is_for_the_whole_head(autojump_clock: trio.testing.MockClock) -> None:
    """A head that comes a byte a second ends with 408 at the deadline, not a second later."""
    wire = MemoryWire([bytes([byte]) for byte in REQUEST], pause=1)
    assert await serve(wire) == ["408"]
    assert trio.current_time() == pytest.approx(5, abs=0.01)
    assert wire.sent.startswith(b"HTTP/1.1 408 Request Timeout\r\n")


async def test_later_head_has_its_own_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """A second request may begin at the end of the idle time, and then has the whole time for its head."""
    wire = MemoryWire([REQUEST, REQUEST[:1], REQUEST[1:]], pause=4.9)
    assert await serve(wire) == ["/health/live", "/health/live"]


async def test_body_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """A body that comes a byte a second ends with 408."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"
    assert await serve(MemoryWire([head, *[b"x"] * 100], pause=1)) == ["/", "408"]


async def test_client_that_does_not_read_its_answer(autojump_clock: trio.testing.MockClock) -> None:
    """An answer that cannot be written is given up after the deadline."""
    conversation = Conversation(MemoryWire([REQUEST], stuck=True), BOUNDS)
    await conversation.next_request(5)
    with pytest.raises(ConnectionOver):
        await conversation.answer(json_answer(200, {}))
    assert trio.current_time() == pytest.approx(5, abs=0.01)


async def test_linger_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    """Lingering for a client that goes on sending ends after its time."""
    conversation = Conversation(MemoryWire([b"x"] * 1000, pause=0.1), BOUNDS)
    await conversation.linger()
    assert trio.current_time() == pytest.approx(0.5, abs=0.01)


async def test_garbage_behind_head_request() -> None:
    """What does not parse is answered with a body, though the request before it was a HEAD."""
    wire = MemoryWire([b"HEAD /h HTTP/1.1\r\nHost: a\r\n\r\n", b"\x00\r\n\r\n"])
    assert await serve(wire) == ["/h", "400"]
    assert wire.sent.endswith(b"}}")


HEADERS = st.lists(
    st.sampled_from([word for word in WORDS if b": " in word and word.endswith(b"\r\n") and b"HTTP" not in word]),
    max_size=3,
    unique=True,
)
MESSAGES = st.lists(
    st.builds(
        lambda method, target, version, headers, body: b"".join(
            [method, target, version, b"Host: a\r\n", *headers, b"\r\n", body]
        ),
        st.sampled_from([b"GET ", b"POST ", b"HEAD "]),
        st.sampled_from([b"/ws/?token=a", b"/a%20b/c", b"http://x/y?z=1"]),
        st.sampled_from([b" HTTP/1.1\r\n", b" HTTP/1.0\r\n"]),
        HEADERS,
        st.sampled_from([b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"0\r\n\r\n"]),
    ),
    min_size=1,
    max_size=4,
)


@given(MESSAGES, st.lists(st.tuples(st.integers(min_value=0), st.binary(max_size=2)), max_size=3))
async def test_damaged_requests(messages: list[bytes], damages: list[tuple[int, bytes]]) -> None:
    """Whole requests, one behind the other and damaged here and there, end in answers or in silence."""
    data = b"".join(messages)
    for at, instead in damages:
        at %= len(data)
        data = data[:at] + instead + data[at + 1 :]
    await serve(MemoryWire([data] if data else []))
