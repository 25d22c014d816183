"""Receipts: which agents have confirmed that they received a message."""

import math

import attrs
import trio

from broker.admin.action import Action
from broker.admin.body import bad_request
from broker.http import Answer, json_answer, refusal
from broker.store.presence import read_presence
from broker.store.receipts import Delivery, Receipt, is_complete, read_receipt, unreported
from protocol.codes import ErrorCode

__all__ = ["Sighting", "follow_receipt", "receipts_url", "show_receipts"]

MAX_WAIT = 30.0
"""Seconds that a request may wait for receipts to be complete."""

POLL = 0.05
"""Seconds between two looks at a receipt that is waited for."""


def receipts_url(organization_id: str, message_id: str) -> str:
    """Return where the receipts of a message are, as the path of this listener."""
    return f"/api/v1/orgs/{organization_id}/receipts/{message_id}"


async def show_receipts(action: Action) -> Answer:
    """Answer with the receipts of a message, once they are complete or `?wait=SECONDS` have passed."""
    organization_id, message_id = action.name("org"), action.name("message")
    seen = await follow_receipt(action, organization_id, message_id, _seconds(action.query.get("wait")))
    if seen is None:
        raise refusal(
            404, ErrorCode.NOT_FOUND, "there are no receipts of this message: it is too old, or asks for none"
        )
    return json_answer(200, {"organization_id": organization_id, **seen.describe()})


@attrs.frozen
class Sighting:
    """A receipt as it was at one moment.

    Attributes:
        silent: brokers with agents that it is for, which have not reported.
        complete: there is nothing more to wait for.
    """

    receipt: Receipt
    silent: tuple[str, ...]
    complete: bool

    @property
    def confirmed(self) -> int:
        """How many agents have confirmed."""
        return sum(session.status is Delivery.CONFIRMED for session in self.receipt.sessions)

    @property
    def is_confirmed(self) -> bool:
        """Whether every agent that it is for has confirmed."""
        return self.complete and not self.silent and self.confirmed == len(self.receipt.sessions)

    def describe(self) -> dict[str, object]:
        """Return it in JSON's terms."""
        receipt = self.receipt
        return {
            "message_id": receipt.message_id,
            "type": receipt.type,
            "workflow_id": receipt.workflow_id,
            "state": receipt.state,
            "version": receipt.version,
            "actor": receipt.actor,
            "issued_at": receipt.issued_at // 1000,
            "status": receipt.status,
            "superseded_by": receipt.superseded_by,
            "complete": self.complete,
            "agents": len(receipt.sessions),
            "confirmed": self.confirmed,
            "slowest_ms": max(
                (each.elapsed_ms for each in receipt.sessions if each.elapsed_ms is not None), default=None
            ),
            "brokers": receipt.brokers,
            "silent_brokers": self.silent,
            "sessions": [attrs.asdict(session) for session in receipt.sessions],
        }


async def follow_receipt(action: Action, organization_id: str, message_id: str, wait: float) -> Sighting | None:
    """Return a receipt once it is complete, or as it is after `wait` seconds; None when there is none.

    Raises:
        Refused: 503.
    """
    deadline = trio.current_time() + wait
    while True:
        seen = await _look(action, organization_id, message_id)
        if seen is None or seen.complete or trio.current_time() >= deadline:
            return seen
        await trio.sleep(POLL)


async def _look(action: Action, organization_id: str, message_id: str) -> Sighting | None:
    layout = action.services.layout
    receipt = await action.store(read_receipt(layout, organization_id, message_id))
    if receipt is None:
        return None
    silent = unreported(receipt, await action.store(read_presence(layout, organization_id)))
    elapsed = action.services.clock() - receipt.issued_at / 1000
    return Sighting(receipt, silent, is_complete(receipt, silent, elapsed))


def _seconds(text: str | None) -> float:
    try:
        seconds = float(text or 0)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MAX_WAIT:
        raise bad_request(f"wait must be a number of seconds, at most {MAX_WAIT:g}")
    return seconds
