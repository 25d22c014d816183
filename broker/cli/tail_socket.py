"""Listening through a broker, over WebSocket, as browsers and agents do."""

import json
import time
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import trio
from trio_websocket import WebSocketConnection

from broker.cli.errors import Failure
from broker.cli.tailing import Printer
from broker.cli.websocket import SILENT_SECONDS, Headers, stay_connected
from protocol.signing import EMPTY_BODY_HASH, ack_body, body_hash, signature
from protocol.states import WANTS_ACK


def tail_socket(url: str, token: str, secret: str | None, channels: tuple[str, ...], printer: Printer) -> None:
    """Print what a broker sends on the channels, until interrupted; raises Failure when it refuses for good."""
    organizations = [channel.removeprefix("control:") for channel in channels if channel.startswith("control:")]
    events = [channel for channel in channels if not channel.startswith("control:")]

    async def run() -> None:
        async with trio.open_nursery() as tails:
            if events:
                tails.start_soon(tail_events, url, events, token, printer)
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


async def tail_events(url: str, channels: list[str], token: str, printer: Printer) -> None:
    """Be a browser that prints what it is shown."""
    bearer = [(b"Authorization", f"Bearer {token}".encode())]

    async def session(websocket: WebSocketConnection) -> None:
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
                    about = f" {message['channel']}" if "channel" in message else ""
                    raise Failure(f"the broker refused{about}: {message['message']}.")
                case _:
                    printer.message(message["channel"], text)

    await stay_connected(_join(url, "/ws/"), lambda: bearer, session, printer, SILENT_SECONDS)


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
            if message["type"] == "approval_resolved" or message.get("state") in WANTS_ACK:
                await websocket.send_message(json.dumps(_ack(message["message_id"], token, secret)))

    await stay_connected(_join(url, f"/ws/control/{organization}"), headers, session, printer)


def _ack(message_id: str, token: str, secret: str | None) -> dict[str, Any]:
    now = int(time.time())
    ack: dict[str, Any] = {"type": "ack", "message_id": message_id, "received_at": now}
    if secret is None:
        return ack
    signed = signature(secret, now, token, body_hash(ack_body(message_id, now)))
    return {**ack, "api_key": token, "timestamp": now, "signature": signed}
