"""What revoking a key does to the agents that run with it."""

from broker.cli.change import Request
from broker.cli.errors import Failure
from broker.cli.output import counted, hint, moment
from broker.cli.target import Target
from broker.store.key_record import KeyRecord
from broker.store.presence import PresentSession, read_presence
from protocol.states import State

_RECEIPTS = 10.0
"""Seconds that the receipts of a kill are waited for."""


def live_agents(target: Target, record: KeyRecord) -> list[PresentSession]:
    """Return the agents that are connected with this key now."""
    present = target.run(read_presence(target.layout, record.organization_id))
    return [session for session in present if session.presence.key_id == record.key_id]


def warn_of(agents: list[PresentSession], record: KeyRecord) -> None:
    """Name the agents that nobody will be able to reach."""
    if not agents:
        return
    hint(f"{counted(len(agents), 'agent')} of {record.organization_id} can no longer be reached, and may run on:")
    for agent in agents:
        bound = agent.presence.workflow_id or "any workflow"
        hint(f"  {agent.session_id}, {bound}, on broker {agent.broker_id} since {moment(agent.presence.since)}")


def kill_first(target: Target, record: KeyRecord, as_json: bool) -> None:
    """Kill the workflow that the key is bound to; raises Failure unless every agent confirms."""
    if record.workflow_id is None:
        raise Failure(
            f"key {record.key_id} is bound to no workflow, so that what runs with it is not known.",
            f"Kill what it is for: signalbox kill {record.organization_id} WORKFLOW --wait 5; then revoke.",
        )
    request = Request(
        target, record.organization_id, State.KILLED, f"key {record.key_id} is revoked", force=False, as_json=as_json
    )
    applied = request.make(record.workflow_id)
    if applied is None or not request.receipts({record.workflow_id: applied}, _RECEIPTS):
        raise Failure(
            f"not every agent confirmed: key {record.key_id} is not revoked.",
            "Without --kill it is revoked all the same, and these agents can then no longer be reached.",
        )
