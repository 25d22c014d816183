"""The WebSocket library's connection as it is used here: begun open, read by the session's own task."""

from collections import OrderedDict
from typing import Any

import trio
import trio_websocket
import wsproto.connection
import wsproto.events

from broker.wire.feed import Deliver, Feed
from broker.wire.untie import close_generators

__all__ = ["ABNORMAL", "OpenWebSocket", "read_messages"]

ABNORMAL = 1006
"""The code of a connection that ended without a close frame (RFC 6455 section 7.1.5); never sent."""

_UNHEARD = trio.Event()
"""What the library would set for tasks that wait for a handshake: there are none."""

_NO_PINGS: OrderedDict[bytes, trio.Event] = OrderedDict()
"""The library's own pings that wait for a pong: ours are messages."""


async def read_messages(feed: Feed, max_message_bytes: int, deliver: Deliver) -> trio_websocket.CloseReason | None:
    """Read to the end; returns how the client ended it, 1006 when it went without a word, None when it was not told.

    Messages come whole and in order. While `deliver` waits nothing more is read, so that the kernel holds the client
    back. Most connections never need the library before their close frame, so that is when it is made.

    Args:
        feed: bytes in, frames out.
        max_message_bytes: a larger message ends the connection with 1009.
        deliver: is given each message.
    """
    feed.deliver = deliver
    try:
        begun = await feed.receive_some()
    except trio.BrokenResourceError:
        begun = b""
    if not begun:
        return trio_websocket.CloseReason(ABNORMAL, None)
    websocket = OpenWebSocket(feed, max_message_bytes, begun)
    del begun  # it may be large, and this task lives as long as the connection
    try:
        return await websocket.run()
    finally:
        close_generators(websocket)


class OpenWebSocket(trio_websocket.WebSocketConnection):
    """A server's connection whose opening handshake is done (RFC 6455 section 4.2): frames in, messages out.

    The library offers only ways in that read an upgrade request themselves, and hands messages over through a channel,
    for which a connection needs a second task. The door has checked and answered the upgrade: nothing that a stranger
    wrote in a request head reaches the library, and a connection that another process began is taken up in the very
    same way. So what the library's constructor makes for a handshake and for that channel is left out, which is most of
    what a connection would cost (`tests/wire/test_websocket.py` compares with the library's own).

    Args:
        feed: bytes in, frames out.
        max_message_bytes: a larger message ends the connection with 1009.
        begun: what has been read from the feed, from the beginning of a frame on.
    """

    def __init__(self, feed: Feed, max_message_bytes: int, begun: bytes) -> None:
        self._id = next(self.CONNECTION_ID)
        self._stream = self._feed = feed
        self._stream_lock = trio.StrictFIFOLock()
        self._wsproto = wsproto.connection.Connection(wsproto.connection.SERVER, trailing_data=begun)  # type: ignore[assignment]  # what a WSConnection passes everything on to once it is open
        self._max_message_size = max_message_bytes
        self._message_size = 0
        self._message_parts = []
        self._receive_buffer_size = None
        self._reader_running = True
        self._initial_request = None
        self._close_reason = None
        self._pings = _NO_PINGS
        self._close_handshake = self._for_testing_peer_closed_connection = _UNHEARD

    async def run(self) -> trio_websocket.CloseReason | None:
        """Read to the end; returns how it came, None when the library was not told."""
        self._send_channel = self._recv_channel = _Inbox(self._feed)  # type: ignore[assignment]  # all that is asked of them
        await self._reader_task()
        return self._close_reason

    async def _handle_message_event(self, event: wsproto.events.BytesMessage | wsproto.events.TextMessage) -> None:
        """Take a part of a message, and join it with those before that are no longer.

        The library keeps a part for each read, and an object for each byte would be thirty times what the message is.
        Joined in this way they are few, and each byte is copied a few times at the most.
        """
        await super()._handle_message_event(event)
        parts: list[Any] = self._message_parts
        while len(parts) > 1 and len(parts[-2]) <= len(parts[-1]):
            last = parts.pop()
            parts[-1] += last


class _Inbox:
    """Stands for both ends of the library's channel: what is put in is delivered in the same step."""

    __slots__ = ("_feed",)

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    async def send(self, message: str | bytes) -> None:
        """Deliver one message."""
        await self._feed.pass_on(message)

    async def aclose(self) -> None:
        """End the reading: the library closes its channel when there is nothing more to say, and would read on."""
        self._feed.over = True

    async def __aenter__(self) -> None:
        """Nothing; the reader holds its end of the channel for as long as it runs."""

    async def __aexit__(self, *_: object) -> None:
        """Nothing; the reader is over."""
