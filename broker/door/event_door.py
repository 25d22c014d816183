"""The way in for browsers: who may open an event socket.

A browser cannot read the status of a refused upgrade, so a bad token is let in and told by a close code, and only one
that tries again and again is refused.
"""

import trio

from broker.door.address import ClientAddress
from broker.door.control_door import unavailable
from broker.door.credentials import EventCredential, event_credential
from broker.door.slots import Full, Slot
from broker.door.state import DoorState
from broker.http.answer import refusal
from broker.http.request import Request
from broker.keys.admission import judge
from broker.keys.errors import KeysUnavailable
from broker.store.key_record import KeyRecord
from protocol.codes import ErrorCode

__all__ = ["BAD_TOKEN", "admit_event"]

BAD_TOKEN = "Invalid or missing token"  # noqa: S105  the reason of the close, which clients show


async def admit_event(
    request: Request, subprotocols: tuple[str, ...], address: ClientAddress, state: DoorState
) -> tuple[KeyRecord, Slot] | None:
    """Decide about an event upgrade; None means: open it, and close it at once with 1008 `BAD_TOKEN`.

    Args:
        request: its query, headers and origin are looked at.
        subprotocols: what the client offers, among which a token may be.
        address: of the client.
        state: limits and services.

    Raises:
        Refused: 403 for a page of another origin than those allowed; 401 for the fourth bad attempt within a minute;
            429 or 503 when a limit is reached or the store is away.
    """
    _check_origin(request, address, state)
    credential = event_credential(request, subprotocols)
    state.guard.check(address, credential.token or "")
    try:
        record = await _look_up(credential, state)
    except KeysUnavailable:
        raise unavailable() from None
    verdict = judge(record, state.services.clock())
    if record is None or verdict is not None:
        code = verdict.code if verdict else ErrorCode.API_KEY_UNKNOWN
        state.say.warning(
            f"token:{code}:{record.key_id if record else ''}",
            "refused: " + (verdict.message if verdict else BAD_TOKEN),
            code=code,
            path=request.path,
            remote=address.text,
            **({"key_id": record.key_id} if record else {}),
        )
        if credential.text:
            await state.guard.note_failure(address)
        if state.bad_tokens.admit(credential.text, address.host, trio.current_time()):
            return None
        raise refusal(401, code, BAD_TOKEN, retry_after=60)
    try:
        return record, state.slots.take(record.key_id, address.counted)
    except Full as full:
        raise full.refused() from None


async def _look_up(credential: EventCredential, state: DoorState) -> KeyRecord | None:
    if credential.token is not None:
        return await state.services.keys.lookup(credential.token)
    if credential.ticket is not None:
        return await state.services.tickets.take(credential.ticket)
    return None


def _check_origin(request: Request, address: ClientAddress, state: DoorState) -> None:
    """Refuse a page that is not allowed: a browser tells where a page is from, and a page cannot make it lie."""
    allowed = state.services.config.events.allowed_origins
    origin = request.header(b"origin") if allowed else None
    if origin is not None and origin.lower() not in allowed:
        state.say.warning(
            ErrorCode.ORIGIN_NOT_ALLOWED,  # whatever the origin: a stranger chooses it, and could make each one new
            "refused: this origin is not in events.allowed_origins",
            code=ErrorCode.ORIGIN_NOT_ALLOWED,
            path=request.path,
            origin=origin[:255],
            remote=address.text,
        )
        raise refusal(403, ErrorCode.ORIGIN_NOT_ALLOWED, "pages of this origin may not connect")
