"""Kill, pause and resume: changing what a workflow is to do, durably and for every broker."""

import secrets

from broker.admin.action import Action, Handler
from broker.admin.receipts import receipts_url
from broker.http import Answer, json_answer, refusal
from broker.store.applied import Applied, Status
from broker.store.apply import apply
from broker.store.known import is_known
from protocol.codes import ErrorCode
from protocol.control import StateChangeInput
from protocol.states import WANTS_ACK, State

__all__ = ["change_state", "changer"]


def changer(state: State) -> Handler:
    """Return the handler that gives a workflow this state."""

    async def change(action: Action) -> Answer:
        return await _change(action, state)

    return change


async def _change(action: Action, state: State) -> Answer:
    organization_id, workflow_id = action.name("org"), action.name("workflow")
    body = action.body
    reason, force, message_id = body.text("reason"), body.flag("force"), body.id("message_id")
    body.done()
    if not await action.store(is_known(action.services.layout, organization_id)):
        why = f"{organization_id} has no API key, and no agent of it is known to be connected"
        raise refusal(404, ErrorCode.NOT_FOUND, why)
    applied = await change_state(
        action, organization_id, workflow_id, state, reason, force=force, message_id=message_id
    )
    url = receipts_url(organization_id, applied.message_id) if state in WANTS_ACK else None
    fields: dict[str, object] = {
        "message_id": applied.message_id,
        "organization_id": organization_id,
        "workflow_id": workflow_id,
        "state": state,
        "version": applied.version,
        "previous": applied.previous,
        "receipts": url,
    }
    return json_answer(202, fields, (("Location", url),) if url else ())


async def change_state(
    action: Action,
    organization_id: str,
    workflow_id: str,
    state: State,
    reason: str | None,
    *,
    force: bool = False,
    message_id: str | None = None,
) -> Applied:
    """Give a workflow a state.

    Raises:
        Refused: 409 for a workflow that is Killed, unless forced; 503 when it cannot be told whether it was done, with
            the message id that makes it safe to ask again.
    """
    message_id = message_id or secrets.token_hex(16)
    message = StateChangeInput(workflow_id, state, reason=reason, message_id=message_id)
    services = action.services
    applied = await action.store(
        apply(services.layout, organization_id, message, actor=action.actor, force=force, limits=services.log_limits),
        f'it may have been done all the same: ask again with "message_id": "{message_id}", and it is done once',
    )
    action.note(
        state.value, org=organization_id, workflow=workflow_id, version=applied.version, status=applied.status,
        message_id=applied.message_id, forced=force,
    )  # fmt: skip
    if applied.status is Status.TERMINAL:
        raise refusal(
            409,
            ErrorCode.TERMINAL_STATE,
            f"workflow {workflow_id} is Killed, and Killed is terminal: its agents have been told to stop for good; "
            f'"force": true makes it {state} all the same',
        )
    if applied.status is Status.STALE:
        raise refusal(409, ErrorCode.STALE_VERSION, f"workflow {workflow_id} has a newer state")
    return applied
