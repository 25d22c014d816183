"""Whole HTTP connections: requests with bodies, one after the other, however they are cut, end in answers."""

import re

import trio

from broker.door.proxy_header import SIGNATURE, BadProxyHeader, read_proxy_header
from broker.http.answer import Refused, json_answer
from broker.http.bounds import HttpBounds
from broker.http.conversation import ConnectionOver, Conversation
from tests.fuzz.heads import CORPUS, WORDS
from tests.fuzz.target import Outcome, Target, pieces

STATUS = re.compile(rb"(?:^|\})HTTP/1\.1 \d\d\d [A-Z]")
BOUNDS = HttpBounds(max_head_bytes=1024, max_body_bytes=512, max_requests=8)


class Spool:
    """Bytes that come in given pieces, then end; it keeps what is written."""

    def __init__(self, given: list[bytes]) -> None:
        self.written = bytearray()
        self.reads = 0
        self._given = given[::-1]

    async def receive_some(self, max_bytes: int = 16384) -> bytes:
        """Return at most the next piece."""
        return self.receive_nowait(max_bytes)

    def receive_nowait(self, max_bytes: int = 16384) -> bytes:
        """Return at most the next piece: all has come already."""
        self.reads += 1
        if not self._given:
            return b""
        piece = self._given.pop()
        if len(piece) > max_bytes:
            self._given.append(piece[max_bytes:])
        return piece[:max_bytes]

    async def send_all(self, data: bytes) -> None:
        """Keep it."""
        self.written += data

    async def send_raw(self, data: bytes) -> None:
        """Nothing is below it."""
        self.written += data

    def unread(self, data: bytes) -> None:
        """Give back."""
        self._given.append(data)

    def farewell(self) -> bytes:
        """Nothing."""
        return b""

    def shutdown(self) -> None:
        """Nothing."""

    def rest(self) -> bytes:
        """What was not read."""
        return b"".join(self._given[::-1])


async def run(data: bytes) -> Outcome:
    """Talk to the end, twice: at once, and in pieces. The end must be the same."""
    if data[:1] == b"\r":
        return await _proxied(data)
    whole, cut = await _talk([data]), await _talk(pieces(data))
    assert whole == cut, (whole, cut)
    return whole


async def _talk(given: list[bytes]) -> Outcome:
    spool = Spool([each for each in given if each])
    conversation = Conversation(spool, BOUNDS)
    deadline = trio.current_time() + 10
    outcome: list[object] = []
    try:
        while True:
            request = await conversation.next_request(deadline)
            outcome.append((request.method, len(request.segments), request.is_upgrade))
            if request.is_upgrade and not request.has_body:
                conversation.hand_over()
                outcome.append(("handed over", len(spool.rest())))
                break
            outcome.append(len(await conversation.body()) if request.has_body else "no body")
            if not await conversation.answer(json_answer(200, {"ok": True})):
                break
    except Refused as refused:
        outcome.append(refused.answer.status)
        try:
            await conversation.answer(refused.answer)
            await conversation.linger()
        except ConnectionOver:
            outcome.append("over")
    except ConnectionOver as over:
        outcome.append(str(over))
    assert spool.reads <= sum(map(len, given)) + 20, "it goes on reading at the end"
    _well_formed(bytes(spool.written), [item[0] for item in outcome if isinstance(item, tuple) and len(item) == 3])
    return tuple(outcome)


def _well_formed(written: bytes, methods: list[object]) -> None:
    """What was answered is HTTP: one answer for each request, and none after it."""
    if b"100 Continue" in written:
        return
    statuses = len(STATUS.findall(written))
    assert statuses <= len(methods) + 1, written
    assert not written or written.startswith(b"HTTP/1.1 ")


async def _proxied(data: bytes) -> Outcome:
    try:
        found = await read_proxy_header(Spool(pieces(data)))
    except BadProxyHeader as error:
        return str(error)
    return found is None or found[0] == "["


HEADER_4 = SIGNATURE + b"\x21\x11\x00\x0c" + bytes((1, 2, 3, 4, 5, 6, 7, 8, 0, 80, 1, 187))
HEADER_6 = SIGNATURE + b"\x21\x21\x00\x24" + bytes(range(36))
POST = b"POST /api/v1/auth/verify HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabcd"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nabcd\r\n0\r\nT: u\r\n\r\n"
EXPECT = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab"
MORE = (POST * 3, CHUNKED + POST, EXPECT + CHUNKED, HEADER_4, HEADER_6, SIGNATURE + b"\x20\0\0\0", POST + CORPUS[0])

TARGET = Target("conversations", (*CORPUS, *MORE), WORDS, run_async=run, share=0.1)
