"""The opening handshake of a WebSocket, the server's side (RFC 6455 section 4.2)."""

import re
from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha1
from typing import Final

import attrs

from protocol.codes import ErrorCode
from protocol.errors import ProtocolError

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_READ: Final = frozenset(
    {
        b"upgrade",
        b"connection",
        b"sec-websocket-version",
        b"sec-websocket-key",
        b"sec-websocket-protocol",
        b"sec-websocket-extensions",
    }
)
_NONCE: Final = re.compile(r"[A-Za-z0-9+/]{22}==")
"""16 bytes in base64 (RFC 4648 section 4)."""

_FIELD_VALUE: Final = re.compile(r"[\x20-\x7e]+")


@attrs.frozen
class Upgrade:
    """A valid request to become a WebSocket.

    ``subprotocols`` and ``extensions`` are the client's offers in its order; an extension keeps its parameters.
    """

    key: str
    subprotocols: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()


def accept_key(sec_websocket_key: str) -> str:
    """The Sec-WebSocket-Accept that answers a Sec-WebSocket-Key (section 4.2.2, step 5.4)."""
    return b64encode(sha1(sec_websocket_key.encode() + _GUID).digest()).decode()


def check_upgrade(method: str | bytes, headers: Iterable[tuple[bytes, bytes]]) -> Upgrade:
    """Check the request (section 4.2.1); header names may be in any case.

    Raises ProtocolError: ``upgrade_required`` for a plain request (answered 426), ``bad_upgrade`` for a faulty upgrade
    (answered 400; for another version of the protocol 426 with ``Sec-WebSocket-Version: 13``, and the message says 13).
    """
    if method not in ("GET", b"GET"):
        raise _bad("the method of a WebSocket upgrade must be GET")
    values: dict[bytes, list[str]] = {}
    for name, value in headers:
        lowered = name.lower()
        if lowered in _READ:
            values.setdefault(lowered, []).append(value.decode("latin-1").strip(" \t"))
    if "websocket" not in _lowered(values.get(b"upgrade")):
        raise ProtocolError(ErrorCode.UPGRADE_REQUIRED, "this is a WebSocket endpoint: Upgrade must be websocket")
    if "upgrade" not in _lowered(values.get(b"connection")):
        raise ProtocolError(ErrorCode.UPGRADE_REQUIRED, "this is a WebSocket endpoint: Connection must be Upgrade")
    if values.get(b"sec-websocket-version") != ["13"]:
        raise _bad("Sec-WebSocket-Version must be 13")
    return Upgrade(
        _checked_key(values.get(b"sec-websocket-key", [])),
        tuple(item for item in _items(values.get(b"sec-websocket-protocol")) if _TOKEN.fullmatch(item)),
        _items(values.get(b"sec-websocket-extensions")),
    )


def switching_protocols(key: str, subprotocol: str | None = None, extensions: str | None = None) -> bytes:
    """The answer that accepts the upgrade, blank line included.

    Raises ValueError when ``subprotocol`` or ``extensions`` could not stand in a header.
    """
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept_key(key)}",
    ]
    if subprotocol is not None:
        if not _TOKEN.fullmatch(subprotocol):
            raise ValueError(f"not a subprotocol: {subprotocol!r}")
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    if extensions is not None:
        if not _FIELD_VALUE.fullmatch(extensions):
            raise ValueError(f"not a list of extensions: {extensions!r}")
        lines.append(f"Sec-WebSocket-Extensions: {extensions}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def _checked_key(keys: list[str]) -> str:
    if len(keys) != 1:
        raise _bad("Sec-WebSocket-Key must be there once")
    if not _NONCE.fullmatch(keys[0]):
        raise _bad("Sec-WebSocket-Key must be 16 bytes in base64")
    return keys[0]


def _items(values: list[str] | None) -> tuple[str, ...]:
    if not values:
        return ()
    return tuple(item for value in values for part in value.split(",") if (item := part.strip(" \t")))


def _lowered(values: list[str] | None) -> tuple[str, ...]:
    if values is not None and len(values) == 1 and "," not in values[0]:
        return (values[0].lower(),)
    return tuple(item.lower() for item in _items(values))


def _bad(message: str) -> ProtocolError:
    return ProtocolError(ErrorCode.BAD_UPGRADE, message)
