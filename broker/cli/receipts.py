"""Waiting for receipts: which agents confirmed that they received a message, and which did not."""

import time
from typing import Any

import attrs
import click

from broker.cli.output import counted, hint, print_json
from broker.cli.target import Target
from broker.store.applied import Applied
from broker.store.presence import read_presence
from broker.store.receipts import Delivery, Receipt, ReceiptSession, is_complete, read_receipt, unreported

_POLL = 0.03


def wait_for_receipts(
    target: Target, org: str, workflow: str, applied: Applied, deadline: float, as_json: bool
) -> bool:
    """Show receipts as they come in, until `deadline` (monotonic), and the sum of it; tell whether all confirmed."""
    watch = _Watch(target, org, workflow, applied, as_json)
    began = time.monotonic()
    while not watch.complete(time.monotonic() - began) and time.monotonic() < deadline:
        time.sleep(min(_POLL, max(0.0, deadline - time.monotonic())))
    return watch.conclude()


@attrs.define(eq=False)
class _Watch:
    """One message, and what has been shown of its receipts."""

    _target: Target
    _org: str
    _workflow: str
    _applied: Applied
    _as_json: bool
    _receipt: Receipt | None = None
    _silent_brokers: tuple[str, ...] = ()
    _shown: set[str] = attrs.Factory(set)

    def complete(self, elapsed: float) -> bool:
        """Read the receipt, show what is new, and tell whether there is nothing more to wait for."""
        layout = self._target.layout
        self._receipt = self._target.run(read_receipt(layout, self._org, self._applied.message_id))
        if self._receipt is None:
            return True
        for session in self._receipt.sessions:
            if session.status is not Delivery.PENDING and session.session_id not in self._shown:
                self._shown.add(session.session_id)
                self._show(session)
        present = self._target.run(read_presence(layout, self._org))
        self._silent_brokers = unreported(self._receipt, present)
        return is_complete(self._receipt, self._silent_brokers, elapsed, self._applied.heard)

    def _show(self, session: ReceiptSession) -> None:
        if self._as_json:
            print_json({"type": "receipt", "message_id": self._applied.message_id, **_json(session)})
        elif session.status is Delivery.CONFIRMED:
            click.echo(f"  {_who(session)} confirmed after {session.elapsed_ms} ms")
        else:
            click.echo(f"  {_who(session)} {_trouble(session)}")

    def conclude(self) -> bool:
        """Show the sum of it, and tell whether every agent confirmed."""
        sessions = self._receipt.sessions if self._receipt is not None else ()
        confirmed = [session for session in sessions if session.status is Delivery.CONFIRMED]
        missing = [session for session in sessions if session.status is not Delivery.CONFIRMED]
        slowest = max((session.elapsed_ms or 0 for session in confirmed), default=None)
        superseded = self._receipt.superseded_by if self._receipt is not None else None
        if self._as_json:
            summary = {
                "type": "summary",
                "workflow_id": self._workflow,
                "message_id": self._applied.message_id,
                "agents": len(sessions),
                "confirmed": len(confirmed),
                "slowest_ms": slowest,
                "unconfirmed": [_json(session) for session in missing],
                "unknown_brokers": list(self._silent_brokers),
                "superseded_by": superseded,
                "lost": self._receipt is None,
            }
            print_json(summary)
        else:
            if self._receipt is None:
                click.echo("The store has lost the receipt: who confirmed is not known.")
            else:
                click.echo(_sentence(len(sessions), len(confirmed), slowest, known=not self._silent_brokers))
            for session in missing:
                click.echo(f"  not confirmed: {_who(session)}, {_trouble(session)}")
            for broker in self._silent_brokers:
                click.echo(f"  unknown: broker {broker} has agents of {self._org} and did not report")
        if superseded is not None:
            hint(f"Another change ({superseded}) came meanwhile: nobody is asked for this one any more.")
        return self._receipt is not None and not missing and not self._silent_brokers


def _sentence(agents: int, confirmed: int, slowest: int | None, *, known: bool) -> str:
    if not agents and not known:
        return "No agent confirmed."
    if not agents:
        return "No agent is connected; whoever connects later is told at once."
    text = f"{confirmed} of {counted(agents, 'agent')} confirmed"
    return f"{text}, the slowest after {slowest} ms." if slowest is not None else f"{text}."


def _who(session: ReceiptSession) -> str:
    bound = f" of {session.workflow_id}" if session.workflow_id else ""
    return (
        f"agent {session.session_id} (key {session.key_id or 'unknown'}{bound}, broker {session.broker or 'unknown'})"
    )


def _trouble(session: ReceiptSession) -> str:
    told = {
        Delivery.PENDING: "has not answered yet",
        Delivery.UNCONFIRMED: "never answered",
        Delivery.GONE: "disconnected before it answered",
    }
    text = told.get(session.status, session.status.value)
    return f"{text}: {session.diagnosis}" if session.diagnosis else text


def _json(session: ReceiptSession) -> dict[str, Any]:
    return attrs.asdict(session)
