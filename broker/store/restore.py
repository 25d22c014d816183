"""After a loss of the store: what a broker still knows goes back first."""

import secrets
from collections.abc import Iterable
from typing import Final

import attrs

from broker.store.fragments import actor_text, json_text
from broker.store.layout import Layout
from broker.store.limits import LogLimits, limit_args
from broker.store.replies import integer, items, maybe_text, text
from broker.store.request import Argument, Operation, load_script
from broker.store.snapshot import Position, StoredWorkflow
from protocol.ids import check_id

RESTORE = load_script("organization", "restore")

_AT_ONCE: Final = 200


@attrs.frozen
class Restored:
    """What a restore did: where the log stands now, whether that is a new epoch, and which workflows it changed."""

    position: Position
    new_epoch: bool
    changed: tuple[str, ...]


def restore(
    layout: Layout,
    organization_id: str,
    known: Iterable[StoredWorkflow],
    position: Position,
    *,
    limits: LogLimits | None = None,
) -> Operation[Restored]:
    """Bring a store up to what a broker knows, of which ``position`` is the newest that it has seen.

    A workflow that the store does not know, or only in an older version, is written back as it was. One that was
    changed after the loss, under a version that clients would not take for newer, is applied again above the known
    version. A Killed wins over whatever came without knowing of it, but not over a forced resume. All that changes is
    logged and published, under a new epoch, so that every broker reads the organization anew; without a loss nothing
    changes, however often this is called.

    Raises ProtocolError for an organization_id that is none.
    """
    check_id(organization_id, "organization_id")
    epoch = secrets.token_hex(8)
    changed: list[str] = []
    new_epoch = False
    batches = list(_batches(known)) or [[]]
    newest = position
    same_history = ""
    for batch in batches:
        reply = yield RESTORE(
            (
                layout.meta(organization_id),
                layout.log(organization_id),
                layout.workflows(organization_id),
                layout.changed(organization_id),
                layout.open(organization_id),
            ),
            layout.receipts(organization_id, ""),
            layout.live(organization_id),
            organization_id,
            epoch,
            *limit_args(limits),
            position.epoch or "",
            position.seq,
            position.ms,
            same_history,
            *batch,
        )
        now_epoch, seq, ms, same, renewed, touched = items(reply)
        same_history = text(same)
        newest = Position(maybe_text(now_epoch), integer(seq), integer(ms))
        new_epoch = new_epoch or text(renewed) == "1"
        changed += map(text, items(touched))
    return Restored(newest, new_epoch, tuple(changed))


def _batches(known: Iterable[StoredWorkflow]) -> Iterable[list[Argument]]:
    words: list[Argument] = []
    for stored in known:
        workflow = stored.workflow
        words += [
            workflow.workflow_id,
            workflow.version,
            workflow.state.value,
            json_text(workflow.reason),
            workflow.updated_at,
            stored.message_id,
            actor_text(stored.actor),
            stored.at_ms,
        ]
        if len(words) >= 8 * _AT_ONCE:
            yield words
            words = []
    if words:
        yield words
