"""The states of a workflow, and how an approval ends."""

from enum import StrEnum
from typing import Final

from protocol.codes import ErrorCode
from protocol.errors import ProtocolError
from protocol.ids import json_type


class State(StrEnum):
    """What an operator wants of a workflow. The values are exactly what travels on the wire."""

    NORMAL = "Normal"
    FLAGGED = "Flagged"
    TRIPPED = "Tripped"
    PAUSED = "Paused"
    KILLED = "Killed"


class Outcome(StrEnum):
    """How an approval was resolved."""

    APPROVED = "approved"
    DENIED = "denied"


WANTS_ACK: Final = frozenset({State.KILLED, State.PAUSED})
"""States whose state_change is sent again until the client acknowledges it."""

_STATES: Final = {state.value.lower(): state for state in State} | {"resumed": State.NORMAL}
_OUTCOMES: Final = {outcome.value: outcome for outcome in Outcome}


def parse_state(value: object) -> State:
    """A state as a publisher writes it, in any case; ``resumed`` means Normal.

    Raises ProtocolError (``invalid_message``).
    """
    state = _STATES.get(value.lower()) if isinstance(value, str) else None
    if state is None:
        raise ProtocolError(
            ErrorCode.INVALID_MESSAGE, f"state must be {', '.join(State)} or resumed, not {_shown(value)}"
        )
    return state


def parse_outcome(value: object) -> Outcome:
    """An outcome as a publisher writes it, in any case.

    Raises ProtocolError (``invalid_message``).
    """
    outcome = _OUTCOMES.get(value.lower()) if isinstance(value, str) else None
    if outcome is None:
        raise ProtocolError(ErrorCode.INVALID_MESSAGE, f"outcome must be approved or denied, not {_shown(value)}")
    return outcome


def _shown(value: object) -> str:
    return repr(value[:32]) if isinstance(value, str) else json_type(value)
