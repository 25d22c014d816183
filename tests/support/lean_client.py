"""A WebSocket client for crowds: a few microseconds a message, no checks of what a good server never does."""

from __future__ import annotations

import ssl

import attrs
import trio

from tests.support.dialing import Address, dial
from tests.support.ws_client import Closed

__all__ = ["LeanClient", "Refused", "client_frame"]

_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_TEXT, _CLOSE, _PING = 0x81, 0x88, 0x89


@attrs.define(eq=False)
class Refused(Exception):
    """The upgrade was answered with another status than 101."""

    status: int
    body: bytes


def client_frame(payload: bytes, first: int = _TEXT) -> bytes:
    """Frame a message as a client does. The mask is four zero bytes, so that masking costs nothing."""
    size = len(payload)
    if size < 126:
        return bytes((first, 0x80 | size)) + bytes(4) + payload
    if size < 65536:
        return bytes((first, 0xFE)) + size.to_bytes(2, "big") + bytes(4) + payload
    return bytes((first, 0xFF)) + size.to_bytes(8, "big") + bytes(4) + payload


class LeanClient:
    """One connection. Nothing is read while nobody receives; WebSocket pings are answered by whoever receives."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._buffer = b""
        self._closed: Closed | None = None
        self._sending = trio.Lock()

    @classmethod
    async def connect(
        cls,
        address: Address,
        target: str,
        headers: dict[str, str] | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        patience: float = 10.0,
    ) -> LeanClient:
        """Open a WebSocket. Raises Refused, Closed (1006), OSError, trio.BrokenResourceError, trio.TooSlowError."""
        with trio.fail_after(patience):
            client = cls(await dial(address, tls))
            try:
                await client._upgrade(target, headers or {})
            except BaseException:
                await client.kill()
                raise
        return client

    async def _upgrade(self, target: str, headers: dict[str, str]) -> None:
        given = {
            "Host": "broker.test",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": _KEY,
            **headers,
        }
        lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items()), "", ""]
        await self.stream.send_all("\r\n".join(lines).encode())
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            await self._more()
        status = int(self._buffer.split(b" ", 2)[1])
        if status != 101:
            raise Refused(status, self._buffer[end + 4 :])
        self._buffer = self._buffer[end + 4 :]

    async def send(self, message: bytes) -> None:
        """Send one text message."""
        async with self._sending:
            await self.stream.send_all(client_frame(message))

    async def receive(self) -> list[bytes]:
        """Wait for bytes and return the messages that they complete. Raises Closed once the connection is over."""
        while True:
            messages = await self._parse()
            if messages:
                return messages
            if self._closed is not None:
                raise self._closed
            await self._more()

    async def farewell(self, code: int = 1000) -> None:
        """Send a close frame; whoever receives will see the answer."""
        async with self._sending:
            await self.stream.send_all(client_frame(code.to_bytes(2, "big"), _CLOSE))

    async def end(self, code: int = 1000) -> Closed:
        """Send a close frame, and read until the server has answered it; what comes before is dropped."""
        await self.farewell(code)
        try:
            while True:
                await self.receive()
        except Closed as closed:
            return closed
        finally:
            await self.kill()

    async def kill(self) -> None:
        """Drop the TCP connection without a close frame."""
        await trio.aclose_forcefully(self.stream)

    async def _more(self) -> None:
        try:
            data = await self.stream.receive_some(65536)
        except trio.BrokenResourceError:
            data = b""
        if not data:
            self._closed = self._closed or Closed(1006, "no close frame")
            raise self._closed
        self._buffer += data

    async def _parse(self) -> list[bytes]:
        buffer, at, messages = self._buffer, 0, []
        while len(buffer) - at >= 2:
            first, size = buffer[at], buffer[at + 1]
            start = at + 2
            if size == 126:
                start = at + 4
                size = int.from_bytes(buffer[at + 2 : start], "big")
            elif size == 127:
                start = at + 10
                size = int.from_bytes(buffer[at + 2 : start], "big")
            if len(buffer) < start or len(buffer) - start < size:
                break
            payload = buffer[start : start + size]
            at = start + size
            if first == _TEXT:
                messages.append(payload)
            elif first == _PING:
                async with self._sending:
                    await self.stream.send_all(client_frame(payload, 0x8A))
            elif first == _CLOSE:
                self._closed = Closed(int.from_bytes(payload[:2], "big") or 1005, payload[2:].decode())
        self._buffer = buffer[at:]
        return messages
