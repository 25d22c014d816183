"""Handing control messages to the store: settled, logged and published by one script call, exactly once."""

import hashlib
import secrets

import attrs

from broker.store.applied import Applied, decode_applied
from broker.store.fragments import actor_text, head_of, json_text, target_of, time_of
from broker.store.layout import Layout
from broker.store.limits import LogLimits, limit_args
from broker.store.request import Argument, Operation, load_script
from protocol.codec import tag_of
from protocol.control import ApprovalResolvedInput, ControlInput, StateChangeInput
from protocol.ids import check_id
from protocol.states import WANTS_ACK

APPLY = load_script("organization", "apply")


@attrs.frozen
class Claimant:
    """A broker's subscription to control input, for as long as it lasts.

    ``generation`` rises with each new connection of the subscription; ``since_ms`` is the server's clock just before
    the subscription began. What another broker applied before that, this one cannot have heard.
    """

    broker_id: str
    generation: int
    since_ms: int


def apply(
    layout: Layout,
    organization_id: str,
    message: ControlInput,
    *,
    actor: str | None = None,
    force: bool = False,
    limits: LogLimits | None = None,
) -> Operation[Applied]:
    """Apply a message on behalf of ``actor``: the durable way, for everybody who may call the script.

    A message without message_id gets a random one, fixed before the first try; the same id about the same target is
    applied once and answered alike each time, so that a call whose answer was lost may be made again. ``force`` leaves
    Killed.

    Raises ProtocolError for an organization_id that is none, or one that is not the message's.
    """
    message_id = message.message_id or secrets.token_hex(16)
    claim = _claim_key(layout, organization_id, message, message_id)
    identity: tuple[Argument, ...] = ("once", "", 0, "", "")
    return _call(
        layout,
        organization_id,
        message,
        claim,
        identity,
        message_id=message_id,
        actor=actor,
        force=force,
        limits=limits,
    )


def claim(
    layout: Layout,
    organization_id: str,
    message: ControlInput,
    payload: bytes,
    claimant: Claimant,
    *,
    serial: int | None = None,
    heard_ms: int | None = None,
    after_ms: int | None = None,
    vouched: bool = False,
    limits: LogLimits | None = None,
) -> Operation[Applied]:
    """Claim and apply a plain publication, which every broker hears and hands in; the first wins.

    ``payload`` is exactly what was published: without a message_id, identical publications are told apart by counting
    them per claimant. ``serial``, a number that the broker never uses for another publication, makes it safe to hand
    one in again after its answer was lost. ``heard_ms`` is when it was heard, by the server's clock: what was applied
    at that time or later cannot have been another publication before it. ``after_ms`` is a time, by the same clock,
    that its publication did not precede: what was applied earlier was another one.

    Publications for organizations without a key are not applied, unless ``vouched``: whoever has sessions of one knows
    that it had a key, also when the store has just lost its data.

    Raises ProtocolError for an organization_id that is none.
    """
    message_id = message.message_id
    if message_id is not None:
        key = _claim_key(layout, organization_id, message, message_id)
        identity: tuple[Argument, ...] = ("message", "", 0, "", "")
    else:
        digest = hashlib.sha256(payload).hexdigest()
        key = layout.seen(organization_id, digest)
        identity = ("payload", claimant.broker_id, claimant.since_ms, "" if serial is None else serial, digest)
    rest: tuple[Argument, ...] = (
        "" if heard_ms is None else heard_ms,
        "1" if vouched else "",
        "" if after_ms is None else after_ms,
        claimant.generation,
    )
    return _call(layout, organization_id, message, key, identity, message_id=message_id or "", limits=limits, rest=rest)


def _claim_key(layout: Layout, organization_id: str, message: ControlInput, message_id: str) -> str:
    _, target = target_of(message)
    return layout.claim(organization_id, message_id, tag_of(message), target)


def _call(
    layout: Layout,
    organization_id: str,
    message: ControlInput,
    claim_key: str,
    identity: tuple[Argument, ...],
    *,
    message_id: str,
    actor: str | None = None,
    force: bool = False,
    limits: LogLimits | None,
    rest: tuple[Argument, ...] = ("", "", "", ""),
) -> Operation[Applied]:
    check_id(organization_id, "organization_id")
    workflow_id, _ = target_of(message)
    state = version = ""
    reason = b"null"
    wants_ack = isinstance(message, ApprovalResolvedInput)
    if isinstance(message, StateChangeInput):
        state, reason = message.state.value, json_text(message.reason)
        version = "" if message.version is None else str(message.version)
        wants_ack = message.state in WANTS_ACK
    reply = yield APPLY(
        (
            layout.meta(organization_id),
            layout.log(organization_id),
            layout.workflows(organization_id),
            layout.changed(organization_id),
            layout.open(organization_id),
            layout.org_keys(organization_id),
            claim_key,
        ),
        layout.receipts(organization_id, ""),
        layout.live(organization_id),
        organization_id,
        *identity,  # mode, claimant, since, serial, digest
        tag_of(message),
        workflow_id,
        state,
        version,
        "1" if force else "",
        "1" if wants_ack else "",
        head_of(organization_id, message),
        reason,
        time_of(message),
        actor_text(actor),
        message_id,
        secrets.token_hex(8),  # the epoch, if this begins one
        *limit_args(limits),
        *rest,  # heard, vouched, after, generation
    )
    return decode_applied(reply)
