"""A snapshot on the wire: `initial_state` messages that every client's frame limit allows."""

from collections.abc import Iterable, Iterator

import orjson

from broker.control.message import Message
from protocol.control import Workflow
from protocol.states import State

MAX_SENT_BYTES = 256 * 1024
"""The size of one `initial_state` as sent; the payload travels three times in it when it is signed (JSON and hex)."""

PAYLOAD_BYTES = (MAX_SENT_BYTES - 1024) // 3

JOINED_BYTES = 16 * 1024
"""The longest payload that is made and signed anew for one session, to hold its own workflow as well."""


def fields_of(workflow: Workflow) -> dict[str, object]:
    """Return a workflow's fields as they stand in JSON, in a snapshot as in an answer to a status request."""
    return {
        "workflow_id": workflow.workflow_id,
        "state": workflow.state.value,
        "version": workflow.version,
        "reason": workflow.reason,
        "updated_at": workflow.updated_at,
    }


def entry(workflow: Workflow) -> bytes:
    """Return one workflow as it stands in the `workflows` of an `initial_state`."""
    return orjson.dumps(fields_of(workflow))


def unknown_workflow(workflow_id: str) -> Workflow:
    """Return what a client is told of a workflow that never changed."""
    return Workflow(workflow_id=workflow_id, state=State.NORMAL, version=0, reason=None, updated_at=0)


def pack(organization_id: str, entries: Iterable[bytes]) -> tuple[Message, ...]:
    """Return the snapshot of an organization in messages of at most `MAX_SENT_BYTES` each; at least one.

    The entries are encoded already, each when its workflow changed: to encode thousands of them at once would hold up
    everybody else.
    """
    head = b'{"type":"initial_state","organization_id":"%b","workflows":[' % organization_id.encode()
    parts = _parts(entries, PAYLOAD_BYTES - len(head) - 2)
    return tuple(Message(b"%b%b]}" % (head, b",".join(part))) for part in parts)


def joined(shared: Message, entry: bytes) -> Message:
    """Return a snapshot that has entries, and one more."""
    return Message(b"%b,%b]}" % (shared.payload[:-2], entry))


def _parts(entries: Iterable[bytes], room: int) -> Iterator[list[bytes]]:
    part: list[bytes] = []
    size = 0
    for each in entries:
        if part and size + len(each) > room:
            yield part
            part, size = [], 0
        part.append(each)
        size += len(each) + 1
    yield part
