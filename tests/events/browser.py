"""A browser and the session that serves it, over a real socket pair, for tests."""

import fcntl
import json
import socket
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from broker.config.model import Config
from broker.events.services import EventServices
from broker.events.session import run_event_session
from broker.keys import KeyCache
from broker.observe import Counters, get_logger
from broker.store.key_record import KeyRecord
from broker.store.layout import Layout
from broker.wire import PeerLimits, PlainWire, open_peer
from tests.events.parts import unconnected_hub

KEY = KeyRecord("0" * 64, "key_1", "acme")
LIMITS = PeerLimits(outbox_bytes=1 << 20, max_message_bytes=65536, max_fragments=16, close_timeout=1.0)


class Closed(Exception):
    """The broker has closed, with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(str(code))
        self.code = code


class Browser:
    """The other end: sends JSON in masked frames, reads frames; every wait is bounded."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._data = b""

    @property
    def has_heard_nothing(self) -> bool:
        """Whether nothing has arrived that was not read."""
        try:
            return not self._data and not self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True

    @property
    def waiting_bytes(self) -> int:
        """How many bytes have arrived that were not read."""
        waiting = fcntl.ioctl(self._sock, termios.FIONREAD, bytes(4))
        return len(self._data) + int.from_bytes(waiting, sys.byteorder)

    async def say(self, *messages: dict[str, object] | bytes) -> None:
        """Send messages, all in one segment."""
        data = b""
        for each in messages:
            text = each if isinstance(each, bytes) else json.dumps(each).encode()
            size = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2)
            data += b"\x81" + size + bytes(4) + text
        await self.stream.send_all(data)

    async def hear(self) -> dict[str, Any]:
        """Return the next message; raises Closed."""
        with trio.fail_after(60):
            while True:
                frame = self._take()
                if frame is not None:
                    break
                received = await self.stream.receive_some()
                if not received:
                    raise Closed(1006)
                self._data += received
        opcode, body = frame
        if opcode == 8:
            raise Closed(int.from_bytes(body[:2]))
        message: dict[str, Any] = json.loads(body)
        return message

    async def ending(self) -> int:
        """Read to the end; returns the close code."""
        while True:
            try:
                await self.hear()
            except Closed as closed:
                return closed.code

    def _take(self) -> tuple[int, bytes] | None:
        data = self._data
        if len(data) < 2:
            return None
        size, at = data[1], 2
        if size == 126:
            size, at = int.from_bytes(data[2:4]), 4
        if len(data) < at + size:
            return None
        self._data = data[at + size :]
        return data[0] & 15, data[at : at + size]


def surroundings(**limits: Any) -> EventServices:
    """Return what a session works with: a hub whose link is down, no history."""

    async def nobody(*_: object) -> object:
        raise AssertionError("the store is not asked")

    config = Config()
    config = attrs.evolve(config, limits=attrs.evolve(config.limits, **limits))
    return EventServices(
        config=config,
        hub=unconnected_hub(),
        keys=KeyCache(Layout(), nobody, Counters()),
        counters=Counters(),
        history=nobody,  # type: ignore[arg-type]
        log=get_logger(),
    )


@asynccontextmanager
async def session(services: EventServices, key: KeyRecord = KEY) -> AsyncIterator[Browser]:
    """Serve one browser for the length of the block."""
    ours, theirs = socket.socketpair()
    browser = Browser(theirs)

    async def serve() -> None:
        async with open_peer(PlainWire(ours), b"", LIMITS) as peer:
            await run_event_session(peer, key, services)

    async with trio.open_nursery() as nursery:
        await nursery.start(services.alarms.run)
        nursery.start_soon(serve)
        yield browser
        await browser.stream.aclose()
        nursery.cancel_scope.cancel()


def subscribe(channel: str) -> dict[str, object]:
    """Return a subscribe message."""
    return {"type": "subscribe", "channel": channel}


def confirm(services: EventServices, channel: str) -> None:
    """Say what Redis would."""
    services.hub.channels[channel.encode()].confirmation.confirm(0, 1)
