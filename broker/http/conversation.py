"""HTTP/1.1 on one connection: request heads under a deadline, bounded bodies, answers (RFC 9112, by way of h11).

The bytes are h11's business, every wait is bound here. Deadlines hold for a whole head or body: a client that sends
a byte a second gains nothing by it.
"""

from collections.abc import Awaitable, Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Protocol

import h11
import trio

from broker.http.answer import Answer, Refused, refusal
from broker.http.bounds import HttpBounds
from broker.http.head import read_plain_upgrade
from broker.http.request import Request, parse_request
from protocol.codes import ErrorCode

__all__ = ["ByteWire", "ConnectionOver", "Conversation"]

RECEIVE_BYTES = 16384
LINGER_BYTES = 4 * 1024 * 1024
"""How much a refused client may still send before it is cut off while it reads its answer."""


class ByteWire(Protocol):
    """What a conversation needs of its connection: `broker.wire.PlainWire` and what is like it."""

    async def receive_some(self, max_bytes: int = ...) -> bytes:
        """Return the next bytes, b"" at the end; raises WireBroken."""

    def receive_nowait(self, max_bytes: int = ...) -> bytes:
        """Return the bytes that are there, b"" at the end; raises trio.WouldBlock, WireBroken."""

    async def send_all(self, data: bytes) -> None:
        """Write all; raises WireBroken."""

    async def send_raw(self, data: bytes) -> None:
        """Write bytes below any encryption; raises WireBroken."""

    def unread(self, data: bytes) -> None:
        """Give bytes back, to be received first."""

    def farewell(self) -> bytes:
        """Return the bytes that end the stream below HTTP."""

    def shutdown(self) -> None:
        """Half-close."""


class ConnectionOver(Exception):
    """The client closed, or stayed silent, where nothing needs to be said."""


class Conversation:
    """The requests and answers of one connection, one after the other.

    Args:
        wire: the connection.
        bounds: sizes and times.
        turn: is awaited before a request, or a further piece of one, is looked at, unless it is the first and need not
            be waited for: thousands that arrive in the same moment are not answered in one pass of the loop. By
            itself each lets the other tasks run.
    """

    def __init__(
        self, wire: ByteWire, bounds: HttpBounds, turn: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
    ) -> None:
        self._wire = wire
        self._bounds = bounds
        self._turn = turn
        self._parser: h11.Connection | None = None
        self._plain = b""  # what has come with a plain upgrade, which needs no parser unless it is refused
        self._plain_size = 0
        self._head_only = False
        self._declared: int | None = None
        self._requests = 0
        self._begun = False
        self.idle: trio.CancelScope | None = None
        """The scope of the wait between two requests, so that a drain can end it; None during a request."""

    async def next_request(self, first_deadline: float) -> Request:
        """Read the next request head.

        Args:
            first_deadline: on Trio's clock, the end of the first head; a later one may start within `idle_timeout` and
                then has `handshake_timeout`.

        Raises:
            Refused: 400 for what is no HTTP, 408 for what is slow, 431 for what is large; the connection ends.
            ConnectionOver: the client went away between two requests.
            WireBroken: the client went away.
        """
        if self._requests:
            first_deadline = await self._await_next()
        self._requests += 1
        self._head_only = False  # of the request that is to come, should it not even parse
        if self._requests == 1 and (request := self._first_at_once()):
            return request
        with trio.move_on_at(first_deadline):
            return await self._first() if self._requests == 1 else self._understand(await self._head())
        if not self._begun:
            raise ConnectionOver("sent nothing")
        raise refusal(408, ErrorCode.REQUEST_TIMEOUT, "the request head did not arrive in time", close=True)

    async def body(self) -> bytes:
        """Read the whole body of the current request, with a Content-Length or chunked.

        Raises:
            Refused: 408, 413 or 400; the connection ends.
            WireBroken: the client went away.
        """
        with trio.move_on_after(self._bounds.handshake_timeout):
            return await self._body()
        raise refusal(408, ErrorCode.REQUEST_TIMEOUT, "the request body did not arrive in time", close=True)

    async def answer(self, answer: Answer, keep: bool = True) -> bool:
        """Send an answer to the current request; returns whether another request may follow.

        Args:
            answer: what to say.
            keep: False to close the connection afterwards.

        Raises:
            WireBroken: the client went away.
            ConnectionOver: it takes no bytes within `handshake_timeout`.
        """
        conn = self._h11
        unfinished = conn.their_state in (h11.IDLE, h11.SEND_BODY, h11.ERROR)
        close = answer.close or not keep or unfinished or self._requests >= self._bounds.max_requests
        with trio.move_on_after(self._bounds.handshake_timeout) as writing:
            await self._wire.send_all(self._render(answer, close))
        if writing.cancelled_caught:
            raise ConnectionOver("does not read its answer")
        if conn.our_state is h11.DONE and conn.their_state is h11.DONE:
            conn.start_next_cycle()
            return True
        return False

    def hand_over(self) -> None:
        """Give the bytes that followed an upgrade request back to the wire: frames sent before the 101."""
        trailing = self._plain[self._plain_size :] if self._parser is None else bytes(self._h11.trailing_data[0])
        if trailing:
            self._wire.unread(trailing)

    async def linger(self) -> None:
        """End the stream and read on a little, so that the answer is not lost to a reset (RFC 9112 section 9.6)."""
        received = 0
        with trio.move_on_after(self._bounds.linger):
            farewell = self._wire.farewell()
            if farewell:
                await self._wire.send_raw(farewell)
            self._wire.shutdown()
            while received < LINGER_BYTES and (data := await self._wire.receive_some(RECEIVE_BYTES)):
                received += len(data)

    @property
    def _h11(self) -> h11.Connection:
        """The parser, made when it is first needed; it then learns of an upgrade that was read without it."""
        if self._parser is None:
            self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=self._bounds.max_head_bytes)
            if self._plain:
                self._parser.receive_data(self._plain)
                self._parser.next_event()
                self._parser.next_event()
        return self._parser

    def _first_at_once(self) -> Request | None:
        """Take the first head without waiting if it has come with the connection, as it nearly always has."""
        try:
            data = self._wire.receive_nowait(min(self._bounds.max_head_bytes, RECEIVE_BYTES))
        except trio.WouldBlock:
            return None
        return self._take_first(data)

    async def _first(self) -> Request:
        if self._parser is None:
            data = await self._receive(min(self._bounds.max_head_bytes, RECEIVE_BYTES))
            if request := self._take_first(data):
                return request
        return self._understand(await self._head())

    def _take_first(self, data: bytes) -> Request | None:
        """Return the upgrade that a client has begun with; whatever else it is, or the end, is for the parser."""
        self._begun = bool(data)
        head = read_plain_upgrade(data)
        if head is None:
            self._give(data)
            return None
        self._plain, self._plain_size = data, head.size
        return parse_request(b"GET", head.target, head.headers)

    async def _await_next(self) -> float:
        """Wait for the first byte of another head; returns the deadline of that head."""
        self._begun = bool(self._h11.trailing_data[0])
        if not self._begun:
            data = b""
            with trio.move_on_after(self._bounds.idle_timeout) as self.idle:
                data = await self._wire.receive_some(RECEIVE_BYTES)
            self.idle = None
            if not data:
                raise ConnectionOver("idle")
            self._begun = True
            self._give(data)
        await self._turn()
        return trio.current_time() + self._bounds.handshake_timeout

    async def _head(self) -> h11.Request:
        conn = self._h11
        while True:
            try:
                event = conn.next_event()
            except h11.RemoteProtocolError as error:
                raise _malformed(error) from None
            if isinstance(event, h11.Request):
                return event
            if isinstance(event, h11.ConnectionClosed):
                raise ConnectionOver("closed")
            room = self._bounds.max_head_bytes - len(conn.trailing_data[0])
            if room <= 0:
                raise refusal(431, ErrorCode.HEAD_TOO_LARGE, "the request head is too large", close=True)
            self._give(await self._receive(min(room, RECEIVE_BYTES)))

    async def _body(self) -> bytes:
        conn = self._h11
        limit = self._bounds.max_body_bytes
        declared = self._declared
        if declared is not None and declared > limit:
            raise _too_large(limit)
        if conn.they_are_waiting_for_100_continue:
            go_on = conn.send(h11.InformationalResponse(status_code=100, headers=[]))
            await self._wire.send_all(go_on or b"")
        body = bytearray()
        while True:
            try:
                event = conn.next_event()
            except h11.RemoteProtocolError as error:
                raise _malformed(error) from None
            if isinstance(event, h11.Data):
                body += event.data
                if len(body) > limit:
                    raise _too_large(limit)
            elif isinstance(event, h11.EndOfMessage) or event is h11.PAUSED:
                return bytes(body)
            elif event is h11.NEED_DATA:
                self._give(await self._receive(RECEIVE_BYTES))

    async def _receive(self, max_bytes: int) -> bytes:
        """Return what comes of a head or a body, once it is its turn."""
        data = await self._wire.receive_some(max_bytes)
        self._begun = self._begun or bool(data)
        await self._turn()
        return data

    def _give(self, data: bytes) -> None:
        try:
            self._h11.receive_data(data)
        except h11.RemoteProtocolError as error:
            raise _malformed(error) from None

    def _understand(self, event: h11.Request) -> Request:
        self._head_only = event.method == b"HEAD"
        headers = tuple((bytes(name), bytes(value)) for name, value in event.headers)
        request = parse_request(event.method, event.target, headers, event.http_version)
        if not request.has_body:
            self._h11.next_event()  # the end of a message without a body: then h11 knows that the request is complete
        self._declared = request.content_length
        return request

    def _render(self, answer: Answer, close: bool) -> bytes:
        headers = [
            ("Date", formatdate(usegmt=True)),
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            ("Cache-Control", "no-store"),
            *answer.headers,
        ]
        if close:
            headers.append(("Connection", "close"))
        reason = HTTPStatus(answer.status).phrase
        conn = self._h11
        parts = [conn.send(h11.Response(status_code=answer.status, headers=headers, reason=reason))]
        if answer.body and not self._head_only:
            parts.append(conn.send(h11.Data(data=answer.body)))
        parts.append(conn.send(h11.EndOfMessage()))
        return b"".join(part for part in parts if part)


def _too_large(limit: int) -> Refused:
    return refusal(413, ErrorCode.BODY_TOO_LARGE, f"the body may have {limit} bytes at the most", close=True)


def _malformed(error: h11.RemoteProtocolError) -> Refused:
    if error.error_status_hint == 431:
        return refusal(431, ErrorCode.HEAD_TOO_LARGE, "the request head is too large", close=True)
    status = 501 if error.error_status_hint == 501 else 400  # 501: a transfer coding that is not implemented
    return refusal(status, ErrorCode.BAD_REQUEST, f"this is not HTTP/1.1 as it is spoken here: {error}", close=True)
