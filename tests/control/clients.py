"""What a client of the control plane does, for tests."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import trio

from protocol.signing import ack_body, body_hash, signature, verify_envelope
from tests.support.ws_client import WsClient

T = TypeVar("T")


async def snapshot(client: WsClient) -> dict[str, Any]:
    """Receive the first message and return its workflows by id."""
    message = await client.receive_json()
    assert message["type"] == "initial_state"
    return {each["workflow_id"]: each for each in message["workflows"]}


def opened(text: str | bytes, api_key: str, secret: str) -> Any:
    """Verify an envelope as a client does, and return what was signed."""
    return json.loads(verify_envelope(text, secret, api_key=api_key))


async def acknowledge(
    client: WsClient, message_id: str, at: int, api_key: str | None = None, secret: str | None = None
) -> None:
    """Acknowledge a message at unix time `at` by the client's clock, signed if there is a secret."""
    ack: dict[str, Any] = {"type": "ack", "message_id": message_id, "received_at": at}
    if api_key is not None and secret is not None:
        made = signature(secret, at, api_key, body_hash(ack_body(message_id, at)))
        ack |= {"api_key": api_key, "timestamp": at, "signature": made}
    await client.send(json.dumps(ack))


async def eventually(condition: Callable[[], T], patience: float = 5.0) -> T:
    """Return what `condition` returns once that is true; for what happens behind the sockets."""
    with trio.fail_after(patience):
        while not (found := condition()):  # noqa: ASYNC110  nobody tells when it becomes true
            await trio.sleep(0.01)
    return found


async def receive_with(client: WsClient, word: str) -> str:
    """Return the next message whose text holds `word`; others before it are dropped."""
    while word not in (text := str(await client.receive())):
        pass
    return text
