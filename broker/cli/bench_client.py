"""One client of `signalbox bench`: a non-blocking socket, and just enough WebSocket to count what arrives."""

import os
import socket
import ssl
from base64 import b64encode

import attrs
import orjson

from broker.cli.bench_publisher import STAMP

_RECEIVE = 1 << 18
_PONG = b'{"type":"pong"}'
_STAMP_DIGITS = 19


@attrs.frozen
class Address:
    """Where the broker is.

    Attributes:
        family, name: for `socket.connect`.
        host: for the Host header and the certificate.
        target: path and query of the upgrade.
        tls: None for plain text.
    """

    family: socket.AddressFamily
    name: tuple[str, int] | str
    host: str
    target: str
    tls: ssl.SSLContext | None

    @property
    def where(self) -> str:
        """The address, for people."""
        return f"unix:{self.name}" if isinstance(self.name, str) else f"{self.host}:{self.name[1]}"

    def connect(self, timeout: float) -> socket.socket:
        """Return a connected, non-blocking socket; raises OSError."""
        sock = socket.socket(self.family, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            sock.connect(self.name)
            if self.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is not None:
                sock = self.tls.wrap_socket(sock, server_hostname=self.host)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
        return sock


class Refused(Exception):
    """The broker closed, or answered something else than a WebSocket; the message says what."""


class Client:
    """A subscriber.

    Attributes:
        received: events so far.
        ready: whether it has all its subscriptions.
    """

    __slots__ = ("_awaited", "_data", "_subscriptions", "_upgraded", "received", "sock")

    def __init__(self, address: Address, channels: tuple[str, ...], timeout: float) -> None:
        self.sock = address.connect(timeout)
        self._subscriptions = channels
        self._awaited = len(channels)
        self._upgraded = False
        self._data = b""
        self.received = 0
        key = b64encode(os.urandom(16)).decode()
        self.sock.send(
            f"GET {address.target} HTTP/1.1\r\nHost: {address.host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    @property
    def ready(self) -> bool:
        """Whether it has all its subscriptions."""
        return not self._awaited

    def read(self, stamps: list[int]) -> None:
        """Take what has arrived, and add the stamps of its events to `stamps`; raises Refused, or OSError."""
        while True:
            try:
                data = self.sock.recv(_RECEIVE)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            if not data:
                raise Refused("the broker closed the connection")
            self._data = self._data + data if self._data else data
            if self._upgraded or self._upgrade():
                self._take_frames(stamps)
            if len(data) < _RECEIVE and not isinstance(self.sock, ssl.SSLSocket):
                return

    def _upgrade(self) -> bool:
        head, blank, rest = self._data.partition(b"\r\n\r\n")
        if not blank:
            return False
        status = head.split(b"\r\n", 1)[0].decode("latin-1")
        if " 101" not in status:
            raise Refused(f"the broker answered {status} {rest[:200].decode('latin-1')}".strip())
        self._upgraded = True
        self._data = rest
        for channel in self._subscriptions:
            self._send(orjson.dumps({"type": "subscribe", "channel": channel}))
        return True

    def _take_frames(self, stamps: list[int]) -> None:
        data, at, end = self._data, 0, len(self._data)
        while end - at >= 2:
            length, head = data[at + 1], 2
            if length == 126:
                head, length = 4, int.from_bytes(data[at + 2 : at + 4], "big")
            elif length == 127:
                head, length = 10, int.from_bytes(data[at + 2 : at + 10], "big")
            after = at + head + length
            if after > end:
                break
            found = data.rfind(STAMP, at, after) if data[at] == 0x81 else -1
            if found >= 0:
                self.received += 1
                stamps.append(int(data[found + len(STAMP) : found + len(STAMP) + _STAMP_DIGITS]))
            else:
                self._take_other(data[at] & 15, data[at + head : after])
            at = after
        self._data = data[at:]

    def _take_other(self, opcode: int, payload: bytes) -> None:
        if opcode == 8:
            code = int.from_bytes(payload[:2], "big")
            raise Refused(f"the broker closed with {code} {payload[2:].decode(errors='replace')}".strip())
        if opcode != 1:
            return
        message = orjson.loads(payload)
        if message["type"] == "ping":
            self._send(_PONG)
        elif message["type"] == "subscribed":
            self._awaited -= 1
        elif message["type"] == "error":
            raise Refused(f"the broker refused: {message['message']} ({message['code']})")

    def _send(self, payload: bytes) -> None:
        """Send one short text frame, masked with zeros."""
        length = bytes((0x80 | len(payload),)) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
        self.sock.send(b"\x81" + length + bytes(4) + payload)
