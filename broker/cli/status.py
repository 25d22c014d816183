"""`signalbox status`: what an organization's workflows are to do, and which agents are connected."""

import time
from typing import Any

import attrs
import click

from broker.cli.output import ago, counted, hint, moment, print_json, print_table
from broker.cli.target import Target, json_option, target_options
from broker.cli.types import Id
from broker.store.brokers import LiveBroker, live_brokers
from broker.store.known import is_known
from broker.store.presence import PresentSession, read_presence
from broker.store.snapshot import Snapshot, StoredWorkflow, read_snapshot

_WORKFLOW_HEAD = ("WORKFLOW", "STATE", "VERSION", "SINCE", "BY", "REASON")
_AGENT_HEAD = ("AGENT", "KEY", "WORKFLOW", "BROKER", "CONNECTED", "LAST ACK", "NOW")


@click.command()
@click.argument("org", type=Id("the organization"))
@json_option
@target_options
def status(target: Target, org: str, as_json: bool) -> None:
    """Show every workflow of an organization that ever changed, and the agents that are connected now."""
    snapshot = target.run(read_snapshot(target.layout, org))
    agents = target.run(read_presence(target.layout, org))
    brokers = target.run(live_brokers(target.layout))
    if as_json:
        _print_lines(snapshot, agents, brokers)
        return
    now = time.time()
    workflows = [snapshot.workflows[name] for name in sorted(snapshot.workflows)]
    if workflows:
        print_table(_WORKFLOW_HEAD, [_workflow_row(stored, now) for stored in workflows])
    else:
        click.echo(f"No workflow of {org} has ever changed: all are Normal.")
    click.echo()
    if agents:
        print_table(_AGENT_HEAD, [_agent_row(session, now) for session in agents])
    else:
        click.echo(f"No agent of {org} is connected.")
    if not (workflows or agents or target.run(is_known(target.layout, org))):
        hint(f"{org} has no API key either: is the name right? See: signalbox keys list")
    _say_troubles(snapshot, brokers, now)


def _workflow_row(stored: StoredWorkflow, now: float) -> tuple[str, ...]:
    workflow = stored.workflow
    since = ago(stored.at_ms / 1000, now)
    return (
        workflow.workflow_id,
        workflow.state,
        str(workflow.version),
        since,
        stored.actor or "",
        workflow.reason or "",
    )


def _agent_row(session: PresentSession, now: float) -> tuple[str, ...]:
    presence = session.presence
    return (
        session.session_id,
        presence.key_id,
        presence.workflow_id or "any",
        session.broker_id,
        ago(presence.since, now),
        ago(presence.last_ack, now),
        "silent" if presence.silent else "here",
    )


def _say_troubles(snapshot: Snapshot, brokers: tuple[LiveBroker, ...], now: float) -> None:
    if not brokers:
        hint("No broker is running: agents will be told when one is.")
    for broker in brokers:
        if broker.info.get("blind_since") is not None:
            hint(f"Broker {broker.broker_id} hears nothing from Redis since {moment(broker.info['blind_since'])}.")
    if snapshot.capped:
        when = ago(snapshot.capped_at_ms / 1000, now)
        hint(
            f"The log's size cap has cut {counted(snapshot.capped, 'entry', 'entries')}, "
            f"the last {when}: raise control.log_max_entries, or find out who floods it."
        )


def _print_lines(snapshot: Snapshot, agents: tuple[PresentSession, ...], brokers: tuple[LiveBroker, ...]) -> None:
    for name in sorted(snapshot.workflows):
        print_json({"type": "workflow", **_workflow_json(snapshot.workflows[name])})
    for session in agents:
        place = {"session_id": session.session_id, "broker_id": session.broker_id}
        print_json({"type": "agent", **place, **attrs.asdict(session.presence)})
    for broker in brokers:
        record = {"broker_id": broker.broker_id, "heartbeat_at": broker.heartbeat_ms // 1000, "info": dict(broker.info)}
        print_json({"type": "broker", **record})
    log = {"epoch": snapshot.epoch, "seq": snapshot.seq, "capped": snapshot.capped}
    print_json({"type": "log", **log, "capped_at": snapshot.capped_at_ms // 1000 or None})


def _workflow_json(stored: StoredWorkflow) -> dict[str, Any]:
    return {
        **attrs.asdict(stored.workflow),
        "message_id": stored.message_id,
        "actor": stored.actor,
        "changed_at": stored.at_ms // 1000,
    }
