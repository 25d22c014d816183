"""The echo endpoint: what a client sends comes back, through the very wire, reader and outbox of the real sockets.

It is there for conformance tests (`[debug] echo_path`), asks for no key, and exists only where the configuration names
it.
"""

import trio

from broker.door.services import DoorServices
from broker.door.slots import Full, Slots
from broker.door.sockets import Admitted, agreed_compression, checked_upgrade
from broker.door.state import Kind
from broker.http.request import Request
from broker.wire.peer import Peer
from protocol.deflate import COMPRESSED_BINARY, COMPRESSED_TEXT, compressed_frame
from protocol.frames import binary_frame, text_frame
from protocol.upgrade import switching_protocols

__all__ = ["admit_echo", "is_echo"]

KEY_ID = "echo"
"""Whose places the echoing sockets take."""


def is_echo(request: Request, services: DoorServices) -> bool:
    """Tell whether a request is for the echo endpoint, if there is one."""
    path = services.config.debug.echo_path
    return bool(path) and request.is_upgrade and request.path == path


def admit_echo(request: Request, services: DoorServices, slots: Slots) -> Admitted:
    """Let a client in.

    Raises:
        Refused: it is no proper upgrade, or there are too many connections.
    """
    upgrade = checked_upgrade(request)
    deflate = agreed_compression(upgrade, services)
    answer = switching_protocols(upgrade.key, extensions=deflate.answer if deflate else None)
    try:
        return Admitted(answer, Kind.EVENTS, slots.take(KEY_ID), _run_echo_session, deflate)
    except Full as full:
        raise full.refused() from None


async def _run_echo_session(peer: Peer) -> None:
    """Send everything back; one that does not read its echo is not read from either."""

    async def echo(message: str | bytes) -> None:
        peer.send(_frame(message, peer.outbox.window))
        await peer.drained()

    async with trio.open_nursery() as tasks:
        peer.start(tasks)
        await peer.listen(echo)
        tasks.cancel_scope.cancel()


def _frame(message: str | bytes, window: int) -> bytes:
    if isinstance(message, str):
        payload = message.encode()
        return compressed_frame(COMPRESSED_TEXT, payload, window) if window else text_frame(payload)
    return compressed_frame(COMPRESSED_BINARY, message, window) if window else binary_frame(message)
