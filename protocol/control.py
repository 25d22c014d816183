"""Messages of the control plane, as SDKs see them, and what publications of control input may carry.

All times are integers in unix seconds; all versions are integers from 0 to 2^53 - 1. A field without a default is
always on the wire, null included; a field whose default is None is left out when it is None.
"""

import attrs
from attrs import field
from attrs.validators import deep_iterable, instance_of, optional

from protocol.fields import is_id, is_integer, is_outcome, is_state, is_text, shortened, wanted_version, whole
from protocol.states import WANTS_ACK, Outcome, State, parse_outcome, parse_state


@attrs.frozen
class Workflow:
    """One workflow in a snapshot. A workflow of which nothing is known is Normal, version 0, updated at 0."""

    workflow_id: str = field(validator=is_id)
    state: State = field(validator=is_state)
    version: int = field(validator=is_integer)
    reason: str | None = field(validator=optional(is_text))
    updated_at: int = field(validator=is_integer)


@attrs.frozen
class InitialState:
    """The first message of a session: every workflow of the organization. It may come in parts, which clients merge."""

    organization_id: str = field(validator=is_id)
    workflows: tuple[Workflow, ...] = field(validator=deep_iterable(instance_of(Workflow), instance_of(tuple)))


@attrs.frozen
class StateChange:
    """A workflow was killed, paused, resumed, flagged or tripped. Killed and Paused want an Ack."""

    organization_id: str = field(validator=is_id)
    workflow_id: str = field(validator=is_id)
    state: State = field(validator=is_state)
    version: int = field(validator=is_integer)
    reason: str | None = field(validator=optional(is_text))
    updated_at: int = field(validator=is_integer)
    message_id: str = field(validator=is_id)


@attrs.frozen
class PolicyInvalidated:
    """A policy changed; cached decisions must be made anew."""

    organization_id: str = field(validator=is_id)
    policy_id: str = field(validator=is_id)
    new_version: int = field(validator=is_integer)
    message_id: str = field(validator=is_id)


@attrs.frozen
class KeyRotated:
    """An API key was rotated or revoked; cached credentials must be refreshed."""

    organization_id: str = field(validator=is_id)
    key_id: str = field(validator=is_id)
    new_version: int = field(validator=is_integer)
    message_id: str = field(validator=is_id)


@attrs.frozen
class ApprovalResolved:
    """A human approved or denied what an execution waits for. Wants an Ack."""

    organization_id: str = field(validator=is_id)
    approval_id: str = field(validator=is_id)
    workflow_id: str = field(validator=is_id)
    execution_id: str = field(validator=is_id)
    outcome: Outcome = field(validator=is_outcome)
    note: str | None = field(validator=optional(is_text))
    resolved_at: int = field(validator=is_integer)
    message_id: str = field(validator=is_id)


@attrs.frozen
class ResyncRequired:
    """Drop all local state and fetch it anew: the last resort, when no snapshot can be had."""

    reason: str = field(validator=is_text)


@attrs.frozen
class Error:
    """A message of the client was refused; the session lives on."""

    code: str = field(validator=is_text)
    message: str = field(validator=is_text)


@attrs.frozen
class Pong:
    """The answer to a Ping; the only message that is never signed."""


@attrs.frozen
class Subscribed:
    """The client has its snapshot (optional)."""


@attrs.frozen
class Ack:
    """The client received a message (not: obeyed it). With a signature, that one must be right.

    ``received_at`` and ``timestamp`` are unix seconds by the client's clock.
    """

    message_id: str = field(validator=is_id)
    received_at: int = field(converter=whole, validator=is_integer)
    api_key: str | None = field(default=None, validator=optional(is_text))
    timestamp: int | None = field(default=None, validator=optional(is_integer))
    signature: str | None = field(default=None, validator=optional(is_text))


@attrs.frozen
class Ping:
    """The client asks whether the broker is there."""


@attrs.frozen
class StateChangeInput:
    """A published state_change. The state may be written in any case, and ``resumed`` means Normal."""

    workflow_id: str = field(validator=is_id)
    state: State = field(converter=parse_state)
    version: int | None = field(default=None, converter=wanted_version, validator=optional(is_integer))
    reason: str | None = field(default=None, converter=shortened, validator=optional(is_text))
    updated_at: int | None = field(default=None, converter=whole, validator=optional(is_integer))
    message_id: str | None = field(default=None, validator=optional(is_id))
    organization_id: str | None = field(default=None, validator=optional(is_id))


@attrs.frozen
class PolicyInvalidatedInput:
    """A published policy_invalidated."""

    policy_id: str = field(validator=is_id)
    new_version: int = field(validator=is_integer)
    message_id: str | None = field(default=None, validator=optional(is_id))
    organization_id: str | None = field(default=None, validator=optional(is_id))


@attrs.frozen
class KeyRotatedInput:
    """A published key_rotated."""

    key_id: str = field(validator=is_id)
    new_version: int = field(validator=is_integer)
    message_id: str | None = field(default=None, validator=optional(is_id))
    organization_id: str | None = field(default=None, validator=optional(is_id))


@attrs.frozen
class ApprovalResolvedInput:
    """A published approval_resolved."""

    approval_id: str = field(validator=is_id)
    workflow_id: str = field(validator=is_id)
    execution_id: str = field(validator=is_id)
    outcome: Outcome = field(converter=parse_outcome)
    note: str | None = field(default=None, converter=shortened, validator=optional(is_text))
    resolved_at: int | None = field(default=None, converter=whole, validator=optional(is_integer))
    message_id: str | None = field(default=None, validator=optional(is_id))
    organization_id: str | None = field(default=None, validator=optional(is_id))


ServerMessage = (
    InitialState | StateChange | PolicyInvalidated | KeyRotated | ApprovalResolved | ResyncRequired | Error | Pong
)
ClientMessage = Subscribed | Ack | Ping
ControlInput = StateChangeInput | PolicyInvalidatedInput | KeyRotatedInput | ApprovalResolvedInput


def wants_ack(message: ServerMessage) -> bool:
    """Whether the message is sent again until the client acknowledges it: Killed, Paused and resolved approvals."""
    match message:
        case StateChange(state=state):
            return state in WANTS_ACK
        case ApprovalResolved():
            return True
        case _:
            return False
