"""The way in for agents: who may open a control socket, checked before the 101.

The client in the field never comes back after a refusal. So an upgrade waits a while for a store that is away and for
a limit that is reached, and is refused only when that did not help.
"""

import socket
from typing import Any

import trio

from broker.door.address import ClientAddress
from broker.door.credentials import presented_key
from broker.door.slots import Full, Slot
from broker.door.state import DoorState
from broker.http.answer import Refused, refusal
from broker.http.request import Request
from broker.keys.admission import Admission, Refusal, admit
from broker.keys.errors import KeysUnavailable
from broker.observe import Repeated
from broker.store.key_record import KeyRecord
from protocol.codes import ErrorCode
from protocol.errors import ProtocolError
from protocol.ids import check_id

__all__ = ["admit_control", "identify", "unavailable", "watch_transmission"]

RETRY_PAUSE = 0.25
"""Seconds between two look-ups of a key while the store is away."""

UNACKNOWLEDGED = 30_000
"""TCP_USER_TIMEOUT in milliseconds: how long sent bytes may stay unacknowledged before the kernel gives up."""


async def identify(
    request: Request,
    address: ClientAddress,
    state: DoorState,
    body: bytes = b"",
    *,
    named: str | None = None,
    upgrade: bool = False,
) -> tuple[str, Admission]:
    """Return the API key of a request and what it admits to.

    Args:
        request: with X-API-Key or Authorization, and X-Signature with X-Signature-Timestamp.
        address: of the client; one that keeps being wrong is answered late, then not at all.
        state: the key cache, the setting and the clock, and where refusals are logged.
        body: what the signature covers.
        named: the key that the body names; the headers need not name one then, but may not name another.
        upgrade: True for the upgrade of a control socket, for which a signature may be required.

    Raises:
        Refused: 401; 400 for malformed headers; 429 for an address that has been wrong too often.
        KeysUnavailable: the store cannot be asked now.
    """
    api_key = presented_key(request, named)
    state.guard.check(address, api_key)
    services = state.services
    record = await services.keys.lookup(api_key)
    control = services.config.control
    verdict = admit(
        record,
        api_key=api_key,
        now=services.clock(),
        signature=request.header(b"x-signature"),
        timestamp=request.header(b"x-signature-timestamp"),
        max_age=control.signature_max_age,
        setting=control.handshake_signature if upgrade else "optional",
        body=body,
    )
    if isinstance(verdict, Refusal):
        _log_refusal(state.say, request, record, verdict)
        await state.guard.note_failure(address)
        raise refusal(verdict.status, verdict.code, verdict.message)
    return api_key, verdict


async def admit_control(
    request: Request, org_id: str, address: ClientAddress, state: DoorState
) -> tuple[str, Admission, Slot]:
    """Decide about a control upgrade; returns the API key, what it admits to, and the place to be given back.

    Raises:
        Refused: 401, 403, 404, 429, or 503.
    """
    try:
        check_id(org_id, "org_id")
    except ProtocolError as error:
        raise refusal(404, ErrorCode.NOT_FOUND, error.message) from None
    deadline = trio.current_time() + state.services.config.control.upgrade_hold
    api_key, admission = await _identify_patiently(request, address, state, deadline)
    record = admission.record
    if record.organization_id != org_id:
        state.say.warning(
            f"org:{record.key_id}", "refused: the key belongs to another organization", key_id=record.key_id
        )
        raise refusal(403, ErrorCode.WRONG_ORGANIZATION, "this API key belongs to another organization")
    try:
        slot = await state.slots.take_within(record.key_id, deadline - trio.current_time(), address.counted)
    except Full as full:
        raise full.refused() from None
    return api_key, admission, slot


def watch_transmission(raw: socket.socket) -> None:
    """Have the kernel end a connection whose peer acknowledges nothing: a vanished agent is noticed in 30 s."""
    if raw.family in (socket.AF_INET, socket.AF_INET6):
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED)


async def _identify_patiently(
    request: Request, address: ClientAddress, state: DoorState, deadline: float
) -> tuple[str, Admission]:
    await _await_the_guard(request, address, state, deadline)
    with trio.move_on_at(deadline):
        while True:
            try:
                return await identify(request, address, state, upgrade=True)
            except KeysUnavailable:
                await trio.sleep(RETRY_PAUSE)
    raise unavailable()


async def _await_the_guard(request: Request, address: ClientAddress, state: DoorState, deadline: float) -> None:
    """Wait until the guard looks at this address again, if that is soon enough; otherwise `identify` refuses it."""
    api_key = presented_key(request)
    seconds = state.guard.wait(address, api_key)
    if seconds <= deadline - trio.current_time():
        await trio.sleep(seconds)


def unavailable() -> Refused:
    """Return the refusal for when the store cannot be asked."""
    return refusal(503, ErrorCode.UNAVAILABLE, "the key store does not answer; try again", retry_after=2)


def _log_refusal(say: Repeated, request: Request, record: KeyRecord | None, verdict: Refusal) -> None:
    fields: dict[str, Any] = {"code": verdict.code, "path": request.path}
    if record is not None:
        fields["key_id"] = record.key_id
    if verdict.code == ErrorCode.SIGNATURE_MISSING:
        fields["hint"] = 'control.handshake_signature = "optional", or keys add --signature optional, admits it'
    elif verdict.code == ErrorCode.SIGNATURE_STALE:
        fields["hint"] = "the clocks differ: control.signature_max_age says by how much they may"
    say.warning(f"{verdict.code}:{fields.get('key_id', '')}", "refused: " + verdict.message, **fields)
