"""Listening through a broker, over WebSocket, as browsers and agents do."""

import json
import random
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, HandshakeError, WebSocketConnection, open_websocket_url

from broker.cli.errors import Failure
from broker.cli.tailing import Printer
from protocol.codes import CLOSINGS
from protocol.signing import EMPTY_BODY_HASH, ack_body, body_hash, signature

_MAX_MESSAGE = 64 * 1024 * 1024
_CONNECT_TIMEOUT = 15.0
_CLOSE_TIMEOUT = 2.0
_BACKOFF = (1.0, 30.0)

Headers = list[tuple[bytes, bytes]]
Session = Callable[[WebSocketConnection], Awaitable[None]]


def tail_socket(url: str, token: str, secret: str | None, channels: tuple[str, ...], printer: Printer) -> None:
    """Print what a broker sends on the channels, until interrupted; raises Failure when it refuses for good."""
    organizations = [channel.removeprefix("control:") for channel in channels if channel.startswith("control:")]
    events = [channel for channel in channels if not channel.startswith("control:")]

    async def run() -> None:
        async with trio.open_nursery(strict_exception_groups=True) as tails:
            if events:
                bearer = [(b"Authorization", f"Bearer {token}".encode())]
                tails.start_soon(
                    _connected, _join(url, "/ws/"), lambda: bearer, lambda ws: _events(ws, events, printer), printer
                )
            for organization in organizations:
                tails.start_soon(_control, url, organization, token, secret, printer)

    try:
        trio.run(run)
    except BaseExceptionGroup as group:
        raise _first(group) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return what ended the tails; ctrl-C comes before a failure."""
    interrupted = group.subgroup(KeyboardInterrupt)
    if interrupted is not None:
        return KeyboardInterrupt()
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


def _join(url: str, path: str) -> str:
    """Return the WebSocket URL of a broker's path, below the path that the broker has behind a proxy."""
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    base = parts.path.rstrip("/").removesuffix("/ws")
    return urlunsplit((scheme, parts.netloc, base + path, "", ""))


async def _connected(url: str, headers: Callable[[], Headers], session: Session, printer: Printer) -> None:
    """Keep a connection, as the web client does: again after 1, 2, 4 … 30 s, unless the broker says not to."""
    context = ssl.create_default_context() if url.startswith("wss:") else None
    delay, opened_before = _BACKOFF[0], False
    while True:
        reason = ""
        try:
            async with open_websocket_url(
                url,
                context,
                extra_headers=headers(),
                max_message_size=_MAX_MESSAGE,
                connect_timeout=_CONNECT_TIMEOUT,
                disconnect_timeout=_CLOSE_TIMEOUT,
            ) as websocket:
                opened_before = True
                try:
                    await session(websocket)
                except ConnectionClosed as closed:
                    reason = _closed(closed)
            delay = _BACKOFF[0]
        except ConnectionRejected as rejected:
            reason = f"refused with {rejected.status_code}{_body(rejected.body)}"
            if rejected.status_code < 500 and rejected.status_code != 429:
                raise Failure(f"{url}: {reason}.") from None
        except (HandshakeError, OSError, trio.BrokenResourceError) as error:
            reason = str(error.__cause__ or error) or type(error).__name__
        if not opened_before:
            raise Failure(f"{url}: {reason}.")
        printer.remark(f"{reason}; trying again in {delay:.0f} s")
        await trio.sleep(delay * random.uniform(0.8, 1.2))
        delay = min(2 * delay, _BACKOFF[1])


def _closed(closed: ConnectionClosed) -> str:
    """Return why the broker closed; raises Failure when connecting again is useless."""
    if closed.reason is None:
        return "the connection broke"
    code, said = closed.reason.code, closed.reason.reason or ""
    closing = next((entry for known, entry in CLOSINGS.items() if known == code), None)
    text = f"closed with {code}: {said or (closing.meaning.rstrip('.') if closing else 'no reason given')}"
    if closing is not None and not closing.reconnect:
        raise Failure(f"{text}.")
    return text


def _body(body: bytes | None) -> str:
    try:
        return f": {json.loads(body or b'')['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return ""


async def _events(websocket: WebSocketConnection, channels: list[str], printer: Printer) -> None:
    for channel in channels:
        await websocket.send_message(json.dumps({"type": "subscribe", "channel": channel}))
    while True:
        text = await websocket.get_message()
        message: dict[str, Any] = json.loads(text)
        match message["type"]:
            case "ping":
                await websocket.send_message('{"type": "pong"}')
            case "subscribed":
                printer.remark(f"listening on {message['channel']}")
            case "resync_required":
                printer.remark(f"{message['channel']}: events may be missing ({message['reason']})")
            case "error":
                raise Failure(f"the broker refused: {message['message']}.")
            case _:
                printer.message(message["channel"], text)


async def _control(url: str, organization: str, token: str, secret: str | None, printer: Printer) -> None:
    """Be a session of the control plane that shows what it is told."""

    def headers() -> Headers:
        found = [(b"X-API-Key", token.encode())]
        if secret is not None:
            now = int(time.time())
            found.append((b"X-Signature", signature(secret, now, token, EMPTY_BODY_HASH).encode()))
            found.append((b"X-Signature-Timestamp", str(now).encode()))
        return found

    async def session(websocket: WebSocketConnection) -> None:
        printer.remark(f"connected to the control plane of {organization}")
        while True:
            text = await websocket.get_message()
            message: dict[str, Any] = json.loads(text)
            if message["type"] == "error":
                printer.remark(f"the broker says: {message['message']}")
                continue
            printer.message(f"control:{organization}", text)
            if message["type"] == "approval_resolved" or message.get("state") in ("Killed", "Paused"):
                await websocket.send_message(json.dumps(_ack(message["message_id"], token, secret)))

    await _connected(_join(url, f"/ws/control/{organization}"), headers, session, printer)


def _ack(message_id: str, token: str, secret: str | None) -> dict[str, Any]:
    now = int(time.time())
    ack: dict[str, Any] = {"type": "ack", "message_id": message_id, "received_at": now}
    if secret is None:
        return ack
    signed = signature(secret, now, token, body_hash(ack_body(message_id, now)))
    return {**ack, "api_key": token, "timestamp": now, "signature": signed}
