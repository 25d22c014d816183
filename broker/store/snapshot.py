"""Everything that a session must know of an organization, as of one moment."""

from typing import Final

import attrs
import orjson

from broker.store.errors import DamagedWorkflow
from broker.store.layout import Layout
from broker.store.replies import blob, integer, items, maybe_text, pairs, text
from broker.store.request import Operation, Pause, command, load_script
from protocol.control import Workflow
from protocol.states import State

SNAPSHOT = load_script("snapshot")

_BETWEEN_PAUSES: Final = 250
_STATES: Final = {state.value: state for state in State}


@attrs.frozen
class Position:
    """A place in an organization's log: the entry ``seq`` of ``epoch``, appended at ``ms`` (unix milliseconds).

    The epoch is None, and seq 0, before anything ever happened.
    """

    epoch: str | None
    seq: int
    ms: int


@attrs.frozen
class StoredWorkflow:
    """A workflow's newest state with what is not sent to clients: its message, who acted, and when (unix ms)."""

    workflow: Workflow
    message_id: str
    actor: str | None
    at_ms: int


@attrs.frozen
class Snapshot:
    """One organization as of ``now_ms`` (unix milliseconds by the server's clock).

    ``open_receipts`` maps a workflow to the message_id of its Killed or Paused that still wants acknowledgements.
    ``capped`` counts log entries that were lost to the size cap, the last of them at ``capped_at_ms``.
    """

    position: Position
    now_ms: int
    workflows: dict[str, StoredWorkflow]
    open_receipts: dict[str, str]
    capped: int
    capped_at_ms: int

    @property
    def epoch(self) -> str | None:
        """The position's epoch."""
        return self.position.epoch

    @property
    def seq(self) -> int:
        """The position's seq."""
        return self.position.seq

    @property
    def ms(self) -> int:
        """The position's time."""
        return self.position.ms


def read_snapshot(layout: Layout, organization_id: str) -> Operation[Snapshot]:
    """Read an organization: position, workflows and open receipts in one atomic call.

    Raises DamagedWorkflow.
    """
    reply = yield SNAPSHOT(
        (layout.meta(organization_id), layout.workflows(organization_id), layout.open(organization_id))
    )
    epoch, seq, ms, now, capped, capped_at, workflows, open_receipts = items(reply)
    now_ms = integer(now)
    decoded: dict[str, StoredWorkflow] = {}
    for number, (name, value) in enumerate(pairs(workflows), start=1):
        decoded[text(name)] = _decode(text(name), value)
        if number % _BETWEEN_PAUSES == 0:
            yield Pause()
    return Snapshot(
        position=Position(maybe_text(epoch), integer(seq), integer(ms)),
        now_ms=now_ms,
        workflows=decoded,
        open_receipts=_unexpired(open_receipts, now_ms),
        capped=integer(capped),
        capped_at_ms=integer(capped_at),
    )


def read_workflow(layout: Layout, organization_id: str, workflow_id: str) -> Operation[StoredWorkflow | None]:
    """Read one workflow; None if it never changed.

    Raises DamagedWorkflow.
    """
    value = yield command("HGET", layout.workflows(organization_id), workflow_id)
    return None if value is None else _decode(workflow_id, value)


def _decode(workflow_id: str, value: object) -> StoredWorkflow:
    try:
        return decode_stored(blob(value))
    except (ValueError, LookupError, TypeError):
        raise DamagedWorkflow(workflow_id) from None


def decode_stored(value: bytes) -> StoredWorkflow:
    """A value of the workflows hash: ``<version> <state> <JSON>``."""
    body = orjson.loads(value.split(b" ", 2)[2])
    workflow = Workflow(
        workflow_id=body["workflow_id"],
        state=_STATES[body["state"]],
        version=body["version"],
        reason=body["reason"],
        updated_at=body["updated_at"],
    )
    return StoredWorkflow(workflow, body["message_id"], body["actor"], body["at"])


def _unexpired(reply: object, now_ms: int) -> dict[str, str]:
    found: dict[str, str] = {}
    for workflow_id, value in pairs(reply):
        message_id, expires = text(value).split(" ")
        if int(expires) > now_ms:
            found[text(workflow_id)] = message_id
    return found
