"""What `--all` means: the workflows that are known, and the agents of which nobody knows what they run."""

import attrs

from broker.cli.errors import Failure
from broker.cli.output import counted, print_json
from broker.cli.target import Target
from broker.store.presence import PresentSession, read_presence
from broker.store.snapshot import read_snapshot
from protocol.states import WANTS_ACK, State


@attrs.frozen
class Everything:
    """An organization as it is when all of it is to change.

    Attributes:
        workflows: those to change, and after them those that already are so, of which agents are told again.
        unbound: agents whose keys are bound to no workflow, so that what they run is not known.
    """

    workflows: tuple[str, ...]
    unbound: tuple[PresentSession, ...] = ()

    def report_unbound(self, org: str, verb: str, as_json: bool) -> None:
        """Name the agents of which it is not known what they run, and raise Failure if there are any."""
        if not self.unbound:
            return
        if as_json:
            agents = [
                {"session_id": each.session_id, "key_id": each.presence.key_id, "broker_id": each.broker_id}
                for each in self.unbound
            ]
            print_json({"type": "unbound", "organization_id": org, "agents": agents})
        count = f"{counted(len(self.unbound), 'connected agent')} of {org}"
        lines = [f"--all does not cover {count}: what runs with a key that is bound to no workflow is not known."]
        lines += [
            f"  agent {each.session_id} (key {each.presence.key_id}, broker {each.broker_id})" for each in self.unbound
        ]
        raise Failure(
            "\n".join(lines),
            f"They are told every change of {org}: name what they run, with signalbox {verb} {org} WORKFLOW --wait 5",
        )


def read_everything(target: Target, org: str, state: State, force: bool) -> Everything:
    """Find what is known, or has an agent now; what is as it should be already only where an agent may run it.

    To those a kill or a pause is repeated, since perhaps they never confirmed the first. An agent whose key is bound
    to no workflow may run any. What is Killed is left alone by anything but a kill, unless `force`.
    """
    snapshot = target.run(read_snapshot(target.layout, org))
    known = {name: stored.workflow.state for name, stored in snapshot.workflows.items()}
    present = target.run(read_presence(target.layout, org)) if state in WANTS_ACK else ()
    unbound = tuple(session for session in present if session.presence.workflow_id is None)
    bound = {session.presence.workflow_id for session in present if session.presence.workflow_id is not None}
    for name in bound:
        known.setdefault(name, State.NORMAL)
    new = [name for name, now in known.items() if now is not state and (force or now is not State.KILLED)]
    again = [name for name, now in known.items() if now is state and (name in bound or unbound)]
    return Everything((*sorted(new), *sorted(again)), unbound)
