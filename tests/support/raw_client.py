"""A client that sends exactly the bytes that it is told to, and reads HTTP answers back."""

from __future__ import annotations

import json
import ssl
from typing import Any

import attrs
import trio

from tests.support.dialing import Address, dial

__all__ = ["HttpReply", "RawClient"]


@attrs.frozen
class HttpReply:
    """One HTTP answer: header names in lower case, repeated headers joined with a comma and a space."""

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


class RawClient:
    """A connection on which a test writes bytes as it likes. Everything has a bound of `patience` seconds."""

    def __init__(self, stream: trio.abc.Stream, patience: float = 10.0) -> None:
        self.stream = stream
        self.patience = patience
        self._buffer = bytearray()

    @classmethod
    async def connect(cls, address: Address, tls: ssl.SSLContext | None = None, patience: float = 10.0) -> RawClient:
        """Connect to (host, port) or to a unix socket path."""
        with trio.fail_after(patience):
            return cls(await dial(address, tls), patience)

    async def __aenter__(self) -> RawClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close at once, without any farewell."""
        await trio.aclose_forcefully(self.stream)

    async def send(self, data: bytes) -> None:
        """Send these very bytes."""
        with trio.fail_after(self.patience):
            await self.stream.send_all(data)

    async def send_quietly(self, data: bytes) -> bool:
        """Send, and say whether the other side still took it: for bytes that a server may rightly refuse to read."""
        try:
            await self.send(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True

    async def request(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> HttpReply:
        """Send one well-formed HTTP/1.1 request and read the answer."""
        lines = [f"{method} {target} HTTP/1.1"]
        given = {"Host": "broker.test", **(headers or {})}
        if body is not None:
            given.setdefault("Content-Length", str(len(body)))
        lines += [f"{name}: {value}" for name, value in given.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))
        return await self.reply(head_only=method == "HEAD")

    async def reply(self, head_only: bool = False) -> HttpReply:
        """Read one HTTP answer with a Content-Length (or without a body). Raises EOFError on a short one."""
        head = await self.read_until(b"\r\n\r\n")
        first, *rest = head[:-4].decode("latin-1").split("\r\n")
        status = int(first.split(" ", 2)[1])
        headers: dict[str, str] = {}
        for line in rest:
            name, _, value = line.partition(":")
            name = name.lower()
            headers[name] = f"{headers[name]}, {value.strip()}" if name in headers else value.strip()
        bodiless = head_only or status < 200 or status in (204, 304)
        body = b"" if bodiless else await self.read_exactly(int(headers.get("content-length", "0")))
        return HttpReply(status, headers, body)

    async def read_until(self, mark: bytes) -> bytes:
        """Read up to and including `mark`. Raises EOFError when the other side closes before."""
        with trio.fail_after(self.patience):
            while (at := self._buffer.find(mark)) < 0:
                await self._more()
        return self._take(at + len(mark))

    async def read_exactly(self, count: int) -> bytes:
        """Read `count` bytes. Raises EOFError when the other side closes before."""
        with trio.fail_after(self.patience):
            while len(self._buffer) < count:
                await self._more()
        return self._take(count)

    async def read_to_end(self) -> bytes:
        """Read until the other side closes; a reset counts as the end, too."""
        with trio.fail_after(self.patience):
            try:
                while True:
                    await self._more()
            except (EOFError, trio.BrokenResourceError):
                return self._take(len(self._buffer))

    async def _more(self) -> None:
        data = await self.stream.receive_some(65536)
        if not data:
            raise EOFError(f"the server closed; unread: {bytes(self._buffer)!r}")
        self._buffer += data

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken
