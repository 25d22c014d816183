"""API keys over HTTP: making, listing, rotating and revoking them."""

from typing import NoReturn

from broker.admin.action import Action
from broker.admin.body import bad_request
from broker.admin.changes import change_state
from broker.admin.receipts import follow_receipt, receipts_url
from broker.http import Answer, json_answer, refusal
from broker.store.errors import KeyRevoked
from broker.store.key_record import SIGNATURE_RULES, KeyRecord, SignatureRule, shown_of
from broker.store.keys import add_key, find_key, list_keys, revoke_key, rotate_key
from broker.store.presence import PresentSession, read_presence
from protocol.channels import check_channel
from protocol.codes import ErrorCode
from protocol.errors import ProtocolError
from protocol.states import State

__all__ = ["create", "revoke", "rotate", "show_all"]

RECEIPTS = 10.0
"""Seconds that the receipts of a kill are waited for before the key is revoked."""


async def create(action: Action) -> Answer:
    """Make a key; it and its secret are in this one answer and never again."""
    body, services = action.body, action.services
    organization_id, workflow_id, name = action.name("org"), body.id("workflow_id"), body.text("name")
    channels = tuple(_glob(each) for each in body.texts("channels"))
    expires_at, signature = _expiry(action), _rule(body.text("signature"))
    body.done()
    made = await action.store(
        add_key(
            services.layout,
            organization_id,
            workflow_id=workflow_id,
            channels=channels,
            expires_at=expires_at,
            name=name or "",
            signature=signature,
            sealer=services.sealer,
        ),
        "a key may have been made that nobody knows: list the keys, and revoke it",
    )
    action.note("key added", org=organization_id, key_id=made.record.key_id, workflow=workflow_id)
    url = f"/api/v1/orgs/{organization_id}/api-keys/{made.record.key_id}"
    fields = {**_shown(action, made.record), "api_key": made.api_key, "secret_key": made.record.secret_key}
    return json_answer(201, fields, (("Location", url),))


async def show_all(action: Action) -> Answer:
    """List an organization's keys, without the keys themselves and their secrets."""
    services = action.services
    records = await action.store(list_keys(services.layout, action.name("org"), services.sealer))
    return json_answer(200, {"keys": [_shown(action, record) for record in records]})


async def rotate(action: Action) -> Answer:
    """Give a key a new secret; the old one verifies for control.key_overlap more seconds, unless "now" is true."""
    now = action.body.flag("now")
    action.body.done()
    record, services = await _existing(action), action.services
    operation = rotate_key(
        services.layout,
        record.key_id,
        overlap=0.0 if now else services.config.control.key_overlap,
        actor=action.actor,
        limits=services.log_limits,
        sealer=services.sealer,
    )
    try:
        after = await action.store(operation, "it may have been rotated all the same: rotate it again")
    except KeyRevoked:
        _refuse_revoked(record)
    action.note("key rotated", org=record.organization_id, key_id=record.key_id, version=after.version)
    fields = {**_shown(action, after), "secret_key": after.secret_key, "previous_until": after.previous_until}
    return json_answer(200, fields)


async def revoke(action: Action) -> Answer:
    """Revoke a key for good: key_rotated goes out, and its connections are closed.

    The answer names the agents that can no longer be reached by it. With `?kill=true` the workflow that the key is
    bound to is killed before, and the key is revoked only when all its agents have confirmed that.
    """
    action.body.done()
    kill = _wants_kill(action)
    record, services = await _existing(action), action.services
    present = await action.store(read_presence(services.layout, record.organization_id))
    agents = [session for session in present if session.presence.key_id == record.key_id]
    if kill:
        await _kill_first(action, record)
    after = await action.store(
        revoke_key(
            services.layout, record.key_id, actor=action.actor, limits=services.log_limits, sealer=services.sealer
        )
    )
    action.note("key revoked", org=record.organization_id, key_id=record.key_id, agents=len(agents))
    return json_answer(200, {**_shown(action, after), "agents": [_agent(session) for session in agents]})


def _wants_kill(action: Action) -> bool:
    """Whether the query asks for a kill; a slip in it must not revoke without one: nothing would reach the agents."""
    kill = action.query.get("kill", "false")
    if kill not in ("true", "false") or action.query.keys() - {"kill"}:
        raise bad_request("the query may be kill=true or kill=false, nothing else")
    return kill == "true"


async def _kill_first(action: Action, record: KeyRecord) -> None:
    if record.workflow_id is None:
        raise refusal(
            409, ErrorCode.BAD_REQUEST, "the key is bound to no workflow, so that what runs with it is not known"
        )
    org = record.organization_id
    applied = await change_state(action, org, record.workflow_id, State.KILLED, f"key {record.key_id} is revoked")
    seen = await follow_receipt(action, org, applied.message_id, RECEIPTS)
    if seen is None or not seen.is_confirmed:
        raise refusal(
            409,
            ErrorCode.UNAVAILABLE,
            "the workflow is killed, but not every agent has confirmed: the key is not revoked; "
            f"see {receipts_url(org, applied.message_id)}",
        )


async def _existing(action: Action) -> KeyRecord:
    organization_id, key_id, services = action.name("org"), action.name("key"), action.services
    record = await action.store(find_key(services.layout, key_id, services.sealer))
    if record is None or record.organization_id != organization_id:
        raise refusal(404, ErrorCode.NOT_FOUND, f"{organization_id} has no key {key_id}")
    return record


def _refuse_revoked(record: KeyRecord) -> NoReturn:
    raise refusal(409, ErrorCode.API_KEY_REVOKED, f"key {record.key_id} is revoked, for good; make a new one") from None


def _shown(action: Action, record: KeyRecord) -> dict[str, object]:
    return shown_of(record, action.services.clock())


def _agent(session: PresentSession) -> dict[str, object]:
    presence = session.presence
    return {
        "session_id": session.session_id,
        "workflow_id": presence.workflow_id,
        "broker": session.broker_id,
        "since": presence.since,
        "silent": presence.silent,
    }


def _glob(text: str) -> str:
    try:
        return check_channel(text)
    except ProtocolError as error:
        raise bad_request(f"channels: {error.message}", error.code) from None


def _expiry(action: Action) -> int | None:
    at, within = action.body.number("expires_at", whole=True), action.body.number("expires_in")
    now = action.services.clock()
    if at is not None and within is not None:
        raise bad_request("give expires_at or expires_in, not both")
    moment = at if at is not None else None if within is None else now + within
    if moment is not None and moment <= now:
        raise bad_request("expires_at or expires_in: the key would have expired already")
    return None if moment is None else int(moment)


def _rule(text: str | None) -> SignatureRule | None:
    if text is not None and text not in SIGNATURE_RULES:
        raise bad_request('signature must be "required" or "optional"')
    return None if text is None else SIGNATURE_RULES[text]
