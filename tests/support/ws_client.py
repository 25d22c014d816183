"""A small WebSocket client for tests, over Trio and wsproto, without a task of its own."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import attrs
import trio
import wsproto
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.extensions import Extension
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from tests.support.dialing import Address, dial

__all__ = ["Closed", "Rejected", "WsClient"]


class Closed(Exception):
    """The connection is over: `code` and `reason` of the server's close frame; 1006 when there was none."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed {code} {reason}".strip())
        self.code = code
        self.reason = reason


@attrs.define(eq=False)
class Rejected(Exception):
    """The upgrade was refused with an HTTP answer; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as parsed JSON."""
        return json.loads(self.body)

    @property
    def error_code(self) -> str:
        """The `code` of a `{"error": {"code", "message"}}` body."""
        return str(self.json["error"]["code"])


class WsClient:
    """Connect with `WsClient.connect(...)`, then send and receive; nothing is read while nobody receives.

    `answer_pings` False leaves WebSocket ping frames unanswered (they are counted in `pings`). To stop
    reading altogether, do not call `receive`. Every wait is bound to `patience` seconds (trio.TooSlowError).
    """

    def __init__(self, stream: trio.abc.Stream, patience: float, answer_pings: bool) -> None:
        self.stream = stream
        self.patience = patience
        self.answer_pings = answer_pings
        self.pings: list[bytes] = []
        self.pongs: list[bytes] = []
        self.headers: dict[str, str] = {}
        self.subprotocol: str | None = None
        self._ws = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._messages: deque[str | bytes] = deque()
        self._text: list[str] = []
        self._binary = bytearray()
        self._closed: Closed | None = None

    @classmethod
    async def connect(
        cls,
        address: Address,
        target: str,
        headers: dict[str, str] | None = None,
        *,
        subprotocols: tuple[str, ...] = (),
        extensions: Sequence[Extension] = (),
        host: str = "broker.test",
        tls: ssl.SSLContext | None = None,
        patience: float = 10.0,
        answer_pings: bool = True,
    ) -> WsClient:
        """Open a WebSocket on (host, port) or a unix socket path. Raises Rejected when the answer is not 101."""
        with trio.fail_after(patience):
            client = cls(await dial(address, tls), patience, answer_pings)
            extra = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
            request = Request(
                host=host,
                target=target,
                extra_headers=extra,
                subprotocols=list(subprotocols),
                extensions=list(extensions),
            )
            try:
                await client._handshake(request)
            except BaseException:
                await client.kill()
                raise
        return client

    async def __aenter__(self) -> WsClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._closed is None:
            await self.close()
        await self.kill()

    async def _handshake(self, request: Request) -> None:
        await self.stream.send_all(self._ws.send(request))
        refusal: RejectConnection | None = None
        body = b""
        while True:
            data = await self.stream.receive_some(65536)
            try:
                self._ws.receive_data(bytes(data) or None)
            except RemoteProtocolError:
                if data:
                    raise
                raise Closed(1006, "closed during the handshake") from None
            for event in self._ws.events():
                match event:
                    case AcceptConnection():
                        self.headers = {name.decode().lower(): value.decode() for name, value in event.extra_headers}
                        self.subprotocol = event.subprotocol
                    case RejectConnection():
                        refusal = event
                    case RejectData():
                        body += event.data
                        if event.body_finished and refusal is not None:
                            raise _rejected(refusal, body)
                    case _:
                        await self._take(event)
            if refusal is not None and not refusal.has_body:
                raise _rejected(refusal, body)
            if self._ws.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING, ConnectionState.CLOSED):
                return
            if not data:
                raise Closed(1006, "closed during the handshake")

    async def send(self, message: str | bytes) -> None:
        """Send one text or binary message. Raises Closed when the server has closed the connection."""
        if self._closed is not None:
            raise self._closed
        event: Event = TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=bytearray(message))
        await self.send_raw(self._ws.send(event))

    async def send_json(self, **fields: Any) -> None:
        """Send one JSON object as a text message."""
        await self.send(json.dumps(fields))

    async def ping(self, payload: bytes = b"") -> None:
        """Send a ping frame; the answers gather in `pongs`."""
        await self.send_raw(self._ws.send(Ping(payload=payload)))

    async def send_raw(self, data: bytes) -> None:
        """Send bytes past the WebSocket layer: half frames, bad frames."""
        with trio.fail_after(self.patience):
            await self.stream.send_all(data)

    async def receive(self) -> str | bytes:
        """Return the next message. Raises Closed once the connection is over."""
        with trio.fail_after(self.patience):
            while not self._messages:
                if self._closed is not None:
                    raise self._closed
                await self._read()
        return self._messages.popleft()

    async def receive_json(self) -> Any:
        """Return the next message, parsed as JSON."""
        return json.loads(await self.receive())

    async def receive_type(self, wanted: str) -> Any:
        """Return the next JSON message of this `type`; others before it are dropped."""
        with trio.fail_after(self.patience):
            while (message := await self.receive_json()).get("type") != wanted:
                pass
        return message

    async def pong_received(self) -> bytes:
        """Return the payload of the next pong frame; messages that come before it stay to be received."""
        with trio.fail_after(self.patience):
            while not self.pongs:
                if self._closed is not None:
                    raise self._closed
                await self._read()
        return self.pongs.pop(0)

    async def silence(self, seconds: float) -> None:
        """Read for a while and insist that no message comes and that the connection stays open."""
        with trio.move_on_after(seconds):
            message = await self.receive()
            raise AssertionError(f"unexpected message: {message!r}")

    async def wait_closed(self) -> Closed:
        """Read to the end, dropping messages, and say how the connection was closed."""
        with trio.fail_after(self.patience):
            while self._closed is None:
                await self._read()
        self._messages.clear()
        return self._closed

    async def close(self, code: int = 1000, reason: str = "") -> Closed:
        """Start the closing handshake, and return how the server answered it (1006: it did not)."""
        if self._ws.state is ConnectionState.OPEN:
            try:
                await self.send_raw(self._ws.send(CloseConnection(code=code, reason=reason)))
            except trio.BrokenResourceError:
                self._closed = self._closed or Closed(1006, "broken")
        closed = await self.wait_closed()
        await self.kill()
        return closed

    async def kill(self) -> None:
        """Drop the TCP connection without a close frame."""
        await trio.aclose_forcefully(self.stream)

    async def _read(self) -> None:
        try:
            data = await self.stream.receive_some(65536)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        if not data:
            self._closed = self._closed or Closed(1006, "no close frame")
            return
        self._ws.receive_data(bytes(data))
        for event in self._ws.events():
            await self._take(event)

    async def _take(self, event: Event) -> None:
        match event:
            case TextMessage():
                self._text.append(event.data)
                if event.message_finished:
                    self._messages.append("".join(self._text))
                    self._text.clear()
            case BytesMessage():
                self._binary += event.data
                if event.message_finished:
                    self._messages.append(bytes(self._binary))
                    self._binary.clear()
            case Ping():
                self.pings.append(bytes(event.payload))
                if self.answer_pings:
                    await self._reply(event.response())
            case Pong():
                self.pongs.append(bytes(event.payload))
            case CloseConnection():
                self._closed = Closed(event.code, event.reason or "")
                if self._ws.state is ConnectionState.REMOTE_CLOSING:
                    await self._reply(event.response())

    async def _reply(self, event: Event) -> None:
        """Answer a frame; that the server may be gone by now shows in the next read, and a close ends all answers."""
        with contextlib.suppress(trio.BrokenResourceError, LocalProtocolError):
            await self.stream.send_all(self._ws.send(event))


def _rejected(event: RejectConnection, body: bytes) -> Rejected:
    headers = {bytes(name).decode().lower(): bytes(value).decode("latin-1") for name, value in event.headers}
    return Rejected(event.status_code, headers, body)
