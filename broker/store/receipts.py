"""Receipts: which brokers and sessions a message was for, and which of them confirmed it."""

from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import Final

import attrs
import orjson

from broker.store.layout import Layout
from broker.store.presence import PresentSession
from broker.store.replies import fields, integer
from broker.store.request import Argument, Operation, command, load_script
from protocol.states import State

RECEIPT = load_script("receipt")

GRACE: Final = 1.0
"""Seconds after the issue for brokers to report at all, where it is not known for sure which of them have agents."""

MAX_CLOCK_SKEW: Final = 300.0
"""Seconds that an agent's clock may be off before its receipt says so; such an agent's signatures are refused."""


class ReceiptStatus(StrEnum):
    """Whether a message is still wanted."""

    OPEN = "open"
    SUPERSEDED = "superseded"
    """A newer state of the workflow came; nobody is asked any more."""


class Delivery(StrEnum):
    """What became of a message in one session."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    UNCONFIRMED = "unconfirmed"
    """Sent as often as is tried, never acknowledged."""
    GONE = "gone"
    """The session ended first."""


@attrs.frozen
class Addressee:
    """A session that a message is for: its key, and the workflow that the key is bound to."""

    session_id: str
    key_id: str
    workflow_id: str | None = None


@attrs.frozen
class ReceiptSession:
    """One session in a receipt. ``elapsed_ms`` is from issue to acknowledgement by the server's clock.

    ``broker`` and ``key_id`` are empty when a session confirmed or ended before its broker wrote the delivery down.
    """

    session_id: str
    key_id: str
    workflow_id: str | None
    broker: str
    status: Delivery
    elapsed_ms: int | None
    diagnosis: str | None


@attrs.frozen
class Receipt:
    """A message that wants acknowledgements, and where it is.

    ``brokers`` maps the brokers that reported to the number of their sessions that it is for (0 is a report too).
    ``state`` is None and ``version`` 0 for an approval. ``issued_at`` is unix milliseconds.
    """

    message_id: str
    type: str
    workflow_id: str
    state: State | None
    version: int
    actor: str | None
    seq: int
    issued_at: int
    status: ReceiptStatus
    superseded_by: str | None
    brokers: dict[str, int]
    sessions: tuple[ReceiptSession, ...]


def deliver(
    layout: Layout, organization_id: str, message_id: str, broker_id: str, sessions: Iterable[Addressee]
) -> Operation[bool]:
    """Write down that a broker sends the message to these sessions; none at all is worth writing down too.

    May be called again for sessions that come later. Returns False when there is no such receipt (any more).
    """
    words: list[Argument] = []
    for session in sessions:
        words += [session.session_id, session.key_id, session.workflow_id or "-"]
    reply = yield RECEIPT((layout.receipts(organization_id, message_id),), "deliver", broker_id, *words)
    return reply is not None


def acknowledge(
    layout: Layout, organization_id: str, message_id: str, session_id: str, received_at: int
) -> Operation[int | None]:
    """Write down an acknowledgement; the first of a session counts.

    ``received_at`` is unix seconds by the agent's clock: one that is far off is diagnosed. Returns the milliseconds
    from issue to acknowledgement by the server's clock, None when there is no such receipt (any more).
    """
    reply = yield RECEIPT(
        (layout.receipts(organization_id, message_id),), "acknowledge", session_id, received_at, int(MAX_CLOCK_SKEW)
    )
    return None if reply is None else integer(reply)


def mark(
    layout: Layout,
    organization_id: str,
    message_id: str,
    session_id: str,
    status: Delivery,
    diagnosis: str | None = None,
) -> Operation[bool]:
    """Write down that a session is unconfirmed or gone, or why; what is confirmed stays so.

    Returns False when there is no such receipt (any more).
    """
    reply = yield RECEIPT(
        (layout.receipts(organization_id, message_id),), "mark", session_id, status.value, diagnosis or "-"
    )
    return reply is not None


def read_receipt(layout: Layout, organization_id: str, message_id: str) -> Operation[Receipt | None]:
    """Read a receipt; None when there is none (any more)."""
    found = fields((yield command("HGETALL", layout.receipts(organization_id, message_id))))
    if "issued_at" not in found:
        return None
    state = found.get("state")
    return Receipt(
        message_id=message_id,
        type=found["type"],
        workflow_id=found["workflow_id"],
        state=State(state) if state else None,
        version=int(found["version"]),
        actor=orjson.loads(found["actor"]),
        seq=int(found["seq"]),
        issued_at=int(found["issued_at"]),
        status=ReceiptStatus(found["status"]),
        superseded_by=found.get("superseded_by"),
        brokers={name[7:]: int(count) for name, count in found.items() if name.startswith("broker:")},
        sessions=tuple(
            _decode_session(name[8:], value) for name, value in sorted(found.items()) if name.startswith("session:")
        ),
    )


def unreported(receipt: Receipt, present: Iterable[PresentSession]) -> tuple[str, ...]:
    """Return the brokers that hold agents whom the message is for, and have not said that they sent it."""
    concerned = {
        session.broker_id for session in present if session.presence.workflow_id in (None, receipt.workflow_id)
    }
    return tuple(sorted(concerned - receipt.brokers.keys()))


def is_complete(receipt: Receipt, silent: Collection[str], elapsed: float, heard: int = 1) -> bool:
    """Tell whether there is nothing more to wait for: all have reported and settled, or the message is superseded.

    ``silent`` are the brokers that are :func:`unreported`. Fewer reports than brokers ``heard`` the message are waited
    for until ``elapsed`` seconds since the issue are more than GRACE.
    """
    if receipt.status is ReceiptStatus.SUPERSEDED:
        return True
    reported = len(receipt.brokers) >= heard or elapsed > GRACE
    return reported and not silent and all(each.status is not Delivery.PENDING for each in receipt.sessions)


def _decode_session(session_id: str, value: str) -> ReceiptSession:
    status, key_id, workflow_id, broker, elapsed, diagnosis = value.split(" ", 5)
    return ReceiptSession(
        session_id=session_id,
        key_id="" if key_id == "-" else key_id,
        workflow_id=None if workflow_id == "-" else workflow_id,
        broker="" if broker == "-" else broker,
        status=Delivery(status),
        elapsed_ms=None if elapsed == "-" else int(elapsed),
        diagnosis=None if diagnosis == "-" else diagnosis,
    )
