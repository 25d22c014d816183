"""The way in for agents: who may open a control socket, checked before the 101.

The client in the field never comes back after a refusal. So an upgrade waits a while for a store that is away and for
a limit that is reached, and is refused only when that did not help.
"""

from contextlib import ExitStack
from typing import Any

import attrs
import trio

from broker.door.address import ClientAddress
from broker.door.credentials import presented_key
from broker.door.slots import Full, Slot
from broker.door.state import DoorState
from broker.http.answer import Refused, refusal
from broker.http.request import Request
from broker.keys.admission import Admission, Refusal, admit, judge
from broker.keys.errors import KeysUnavailable
from broker.observe import Repeated
from broker.store.key_record import KeyRecord
from protocol.codes import ErrorCode
from protocol.errors import ProtocolError
from protocol.ids import check_id

__all__ = ["admit_control", "identify", "unavailable"]

RETRY_PAUSE = 0.25
"""Seconds between two look-ups of a key while the store is away."""

RETRY_AFTER = 2.0
"""Seconds after which an agent is told to try again, at the most: SDKs sleep that long while they start."""


async def identify(
    request: Request, address: ClientAddress, state: DoorState, body: bytes = b"", *, named: str | None = None
) -> tuple[str, Admission]:
    """Return the API key of a REST request and what it admits to; a signature is checked if there is one.

    An address that has been wrong too often waits, as long as an upgrade would: an SDK that is refused here gives up.

    Args:
        request: with X-API-Key or Authorization, and X-Signature with X-Signature-Timestamp.
        address: of the client; one that keeps being wrong is answered late.
        state: the key cache, the setting and the clock, and where refusals are logged.
        body: what the signature covers.
        named: the key that the body names; the headers need not name one then, but may not name another.

    Raises:
        Refused: 401; 400 for malformed headers; 429 for a wrong credential of an address that was wrong too often.
        KeysUnavailable: the store cannot be asked now.
    """
    api_key = presented_key(request, named)
    await state.guard.hold(address, api_key, state.services.config.control.upgrade_hold / 2)
    record = await state.services.keys.lookup(api_key)
    return api_key, await _judge(request, address, state, api_key, record, body)


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
    api_key, admission = await _identify_agent(request, address, state, deadline)
    record = admission.record
    if record.organization_id != org_id:
        state.say.warning(
            f"org:{record.key_id}",
            "refused: the key belongs to another organization",
            code=ErrorCode.WRONG_ORGANIZATION,
            path=request.path,
            remote=address.text,
            key_id=record.key_id,
        )
        raise refusal(403, ErrorCode.WRONG_ORGANIZATION, "this API key belongs to another organization")
    try:
        slot = await state.slots.take_within(record.key_id, deadline - trio.current_time(), address.counted)
    except Full as full:
        raise full.refused() from None
    with ExitStack() as undecided:
        undecided.enter_context(slot)
        admission = attrs.evolve(admission, record=await _still_good(request, address, state, api_key, deadline))
        undecided.pop_all()
    return api_key, admission, slot


async def _still_good(
    request: Request, address: ClientAddress, state: DoorState, api_key: str, deadline: float
) -> KeyRecord:
    """Return the record of a key after the wait for a place: it may have been revoked meanwhile, or have expired.

    A revocation frees places itself, and would let those in who wait with the very same key.
    """
    record = state.services.keys.recall(api_key) or await _look_up_patiently(api_key, state, deadline)
    verdict = judge(record, state.services.clock())
    if verdict is not None:
        _log_refusal(state.say, request, address, record, verdict)
        raise refusal(verdict.status, verdict.code, verdict.message)
    assert record is not None
    return record


async def _identify_agent(
    request: Request, address: ClientAddress, state: DoorState, deadline: float
) -> tuple[str, Admission]:
    """Do what `identify` does, but wait for a store that is away, and make an address wait rather than refuse it.

    An agent whose neighbours guess keys would otherwise be refused unseen, and never come back.
    """
    api_key = presented_key(request)
    await state.guard.hold(address, api_key, (deadline - trio.current_time()) / 2)
    record = await _look_up_patiently(api_key, state, deadline)
    return api_key, await _judge(request, address, state, api_key, record, required=_must_sign(record, state))


def _must_sign(record: KeyRecord | None, state: DoorState) -> bool:
    """Whether an upgrade must bear a signature: the key's own rule goes before the setting."""
    rule = record.signature if record is not None else None
    return (rule or state.services.config.control.handshake_signature) == "required"


async def _look_up_patiently(api_key: str, state: DoorState, deadline: float) -> KeyRecord | None:
    with trio.move_on_at(deadline):
        while True:
            try:
                return await state.services.keys.lookup(api_key)
            except KeysUnavailable:
                await trio.sleep(RETRY_PAUSE)
    raise unavailable()


async def _judge(
    request: Request,
    address: ClientAddress,
    state: DoorState,
    api_key: str,
    record: KeyRecord | None,
    body: bytes = b"",
    required: bool = False,
) -> Admission:
    """Return what a key admits to; what is wrong is logged, held against its address, and refused."""
    verdict = admit(
        record,
        api_key=api_key,
        now=state.services.clock(),
        signature=request.header(b"x-signature"),
        timestamp=request.header(b"x-signature-timestamp"),
        max_age=state.services.config.control.signature_max_age,
        required=required,
        body=body,
    )
    if isinstance(verdict, Refusal):
        _log_refusal(state.say, request, address, record, verdict)
        await state.guard.note_failure(address)
        state.guard.check(address, api_key, longest=RETRY_AFTER)
        raise refusal(verdict.status, verdict.code, verdict.message)
    return verdict


def unavailable() -> Refused:
    """Return the refusal for when the store cannot be asked."""
    return refusal(503, ErrorCode.UNAVAILABLE, "the key store does not answer; try again", retry_after=RETRY_AFTER)


def _log_refusal(
    say: Repeated, request: Request, address: ClientAddress, record: KeyRecord | None, verdict: Refusal
) -> None:
    fields: dict[str, Any] = {"code": verdict.code, "path": request.path, "remote": address.text}
    if record is not None:
        fields["key_id"] = record.key_id
    if verdict.code == ErrorCode.SIGNATURE_MISSING and record is not None and _is_unsigned(request):
        fields["hint"] = (
            "the key was made with keys add --signature required; one made with --signature optional is admitted"
            if record.signature == "required"
            else 'control.handshake_signature = "optional", or keys add --signature optional, admits it'
        )
    elif verdict.code == ErrorCode.SIGNATURE_STALE:
        fields["hint"] = "the clocks differ: control.signature_max_age says by how much they may"
    say.warning(f"{verdict.code}:{fields.get('key_id', '')}", "refused: " + verdict.message, **fields)


def _is_unsigned(request: Request) -> bool:
    """Whether there is nothing of a signature; half of one is the client's mistake, and no setting admits it."""
    return request.header(b"x-signature") is None and request.header(b"x-signature-timestamp") is None
