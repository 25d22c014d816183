"""A WebSocket client that stays connected as the web client does."""

import json
import math
import random
import ssl
from collections.abc import Awaitable, Callable
from typing import cast
from urllib.parse import urlsplit

import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, HandshakeError, WebSocketConnection, wrap_client_stream

from broker.cli.errors import Failure
from broker.cli.tailing import Printer
from broker.link.reason import reason as why
from protocol.codes import CLOSINGS

_MAX_MESSAGE = 64 * 1024 * 1024
_CONNECT_TIMEOUT = 15.0
_BACKOFF = (1.0, 30.0)

SILENT_SECONDS = 45.0
"""An event socket that has not even brought a ping for so long is dead to the web client, however open it looks."""

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
Headers = list[tuple[bytes, bytes]]
Session = Callable[[WebSocketConnection], Awaitable[None]]


class _Watched(trio.abc.Stream):
    """Passes a stream on, breaks when nothing comes for too long, and calls `on_end` when the other side ends it.

    trio-websocket does not notice when a server goes in the middle of the opening handshake, or without a word.
    """

    def __init__(self, stream: Stream, silent: float) -> None:
        self._stream = stream
        self._silent = silent
        self.ended = False
        self.on_end: Callable[[], None] = lambda: None

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            with trio.fail_after(self._silent):
                data = await self._stream.receive_some(max_bytes)
        except trio.TooSlowError:
            raise trio.BrokenResourceError("nothing was heard any more") from None
        except trio.BrokenResourceError:
            self._end()
            raise
        if not data:
            self._end()
        return data

    def _end(self) -> None:
        self.ended = True
        self.on_end()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def stay_connected(
    url: str, headers: Callable[[], Headers], session: Session, printer: Printer, silent: float = math.inf
) -> None:
    """Keep a connection, as the web client does: again after 1, 2, 4 … 30 s, unless the broker says not to.

    It is given up when nothing at all comes for `silent` seconds.
    """
    delay, opened_before = _BACKOFF[0], False
    while True:
        try:
            with trio.fail_after(_CONNECT_TIMEOUT):
                stream = await _open(url)
            async with stream:
                ended = await _session(url, _Watched(stream, silent), headers(), session)
            if isinstance(ended, Exception):
                raise ended
            reason, opened_before, delay = ended, True, _BACKOFF[0]
        except ConnectionRejected as rejected:
            reason = f"refused with {rejected.status_code}{_body(rejected.body)}"
            if rejected.status_code < 500 and rejected.status_code != 429:
                raise Failure(f"{url}: {reason}.") from None
        except trio.TooSlowError:
            reason = "no answer"
        except (HandshakeError, OSError, trio.BrokenResourceError) as error:
            reason = why(error)
        if not opened_before:
            raise Failure(f"{url}: {reason}.")
        printer.remark(f"{reason}; trying again in {delay:.0f} s")
        await trio.sleep(delay * random.uniform(0.8, 1.2))
        delay = min(2 * delay, _BACKOFF[1])


async def _open(url: str) -> Stream:
    parts = urlsplit(url)
    assert parts.hostname is not None
    if parts.scheme == "wss":
        tls = ssl.create_default_context()
        stream = await trio.open_ssl_over_tcp_stream(parts.hostname, parts.port or 443, ssl_context=tls)
        try:
            await stream.do_handshake()  # here, where it is told what is wrong with a certificate
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream
    return await trio.open_tcp_stream(parts.hostname, parts.port or 80)


async def _session(url: str, watched: _Watched, headers: Headers, session: Session) -> str | Exception:
    """Run one session to its end, and return why it ended, or what kept it from beginning or going on."""
    parts = urlsplit(url)
    ended: str | Exception = ""
    try:
        async with trio.open_nursery() as nursery:
            with trio.fail_after(_CONNECT_TIMEOUT) as opening:
                watched.on_end = opening.cancel
                # Any stream will do, whatever the library's annotation says.
                any_stream = cast("trio.SocketStream", watched)
                websocket = await wrap_client_stream(
                    nursery, any_stream, parts.netloc, parts.path, extra_headers=headers, max_message_size=_MAX_MESSAGE
                )
            try:
                async with websocket:
                    await session(websocket)
            except ConnectionClosed as closed:
                ended = _closed(closed)
            except Failure as failure:
                ended = failure
            nursery.cancel_scope.cancel()
    except* (HandshakeError, trio.TooSlowError) as group:
        ended = group.exceptions[0]  # a refusal is raised by a task of the library
        if watched.ended and isinstance(ended, trio.TooSlowError):
            ended = trio.BrokenResourceError("the connection was ended without an answer")
    return ended


def _closed(closed: ConnectionClosed) -> str | Failure:
    """Return why the broker closed: a Failure when connecting again is useless."""
    if closed.reason is None:
        return "the connection broke"
    code, said = closed.reason.code, closed.reason.reason or ""
    closing = next((entry for known, entry in CLOSINGS.items() if known == code), None)
    text = f"closed with {code}: {said or (closing.meaning.rstrip('.') if closing else 'no reason given')}"
    if closing is not None and not closing.reconnect:
        return Failure(f"{text}.")
    return text


def _body(body: bytes | None) -> str:
    try:
        return f": {json.loads(body or b'')['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return ""
