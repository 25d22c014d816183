"""`signalbox kill`, `pause` and `resume`: changing what a workflow is to do, and seeing that its agents know."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import click

from broker.cli.errors import Failure
from broker.cli.everything import Everything, read_everything
from broker.cli.output import hint, print_json
from broker.cli.receipts import wait_for_receipts
from broker.cli.target import Target, json_option, target_options
from broker.cli.types import Finite, Id, Text
from broker.publisher import Refused
from broker.store.applied import Applied
from broker.store.known import is_known
from protocol.states import State

_PAST = {State.KILLED: "Killed", State.PAUSED: "Paused", State.NORMAL: "Resumed"}


def _command(verb: str, state: State, help_text: str) -> click.Command:
    """Build one of the three commands: they differ in the state that they ask for."""

    @click.command(verb, help=help_text)
    @click.argument("org", type=Id("the organization"))
    @click.argument("workflow", type=Id("the workflow"), required=False)
    @click.option("--all", "every", is_flag=True, help=f"{verb.capitalize()} every known workflow of ORG.")
    @click.option("--reason", type=Text(), metavar="TEXT", help="Why; agents are told.")
    @click.option(
        "--wait",
        type=Finite(min=0, min_open=True),
        metavar="SECONDS",
        help="Show the agents' receipts for up to so long; exit 1 if one is missing.",
    )
    @click.option("--force", is_flag=True, help="Even if the workflow is Killed, which is final otherwise.")
    @json_option
    @target_options
    def run(
        target: Target,
        org: str,
        workflow: str | None,
        every: bool,
        reason: str | None,
        wait: float | None,
        force: bool,
        as_json: bool,
    ) -> None:
        if every == (workflow is not None):
            raise click.UsageError("Name one WORKFLOW, or --all.")
        if not target.run(is_known(target.layout, org)):
            raise Failure(
                f"{org} has no API key, and no agent of it is known to be connected.",
                "Is the name right? See: signalbox keys list",
            )
        meant = read_everything(target, org, state, force) if workflow is None else Everything((workflow,))
        if not meant.workflows:
            hint(f"Nothing to {verb} in {org}.")
        request = Request(target, org, state, reason, force, as_json)
        made = request.make_all(meant.workflows)
        confirmed = request.receipts(made, wait) if wait else True
        meant.report_unbound(org, verb, as_json)
        if None in made.values() or not confirmed:
            raise click.exceptions.Exit(1)

    return run


@attrs.frozen
class Request:
    """What is asked for, of any workflow."""

    target: Target
    org: str
    state: State
    reason: str | None
    force: bool
    as_json: bool

    def make(self, workflow: str) -> Applied | None:
        """Change one workflow and say what came of it; None if it was refused."""
        return self.make_all((workflow,))[workflow]

    def make_all(self, workflows: Iterable[str]) -> dict[str, Applied | None]:
        """Change workflows, and then say what came of each; None for those that were refused.

        Nothing is said before, so that none is left out because nobody reads, as in a pipe into `head`.
        """
        outcomes: dict[str, Applied | Refused] = {}
        try:
            for workflow in workflows:
                outcomes[workflow] = self._change(workflow)
        finally:
            for workflow, outcome in outcomes.items():
                self._tell(workflow, outcome)
        return {workflow: None if isinstance(outcome, Refused) else outcome for workflow, outcome in outcomes.items()}

    def _change(self, workflow: str) -> Applied | Refused:
        try:
            with self.target.talking():
                return self.target.publisher.state_change(self.org, workflow, self.state, self.reason, force=self.force)
        except Refused as refused:
            return refused

    def _tell(self, workflow: str, outcome: Applied | Refused) -> None:
        if isinstance(outcome, Refused):
            if self.as_json:
                print_json(_json(self.org, workflow, outcome.applied))
            Failure(f"{outcome}.").show()
            return
        if self.as_json:
            print_json({**_json(self.org, workflow, outcome), "state": self.state})
        else:
            click.echo(f"{_PAST[self.state]} {workflow} of {self.org} (version {outcome.version}).")
        if outcome.previous is self.state:
            hint(f"It was {self.state} before.")

    def receipts(self, made: Mapping[str, Applied | None], wait: float) -> bool:
        """Show the receipts of all changes, by workflow, for up to `wait` seconds in all; tell if all confirmed."""
        if self.state is State.NORMAL:
            hint("Agents do not acknowledge a resume: there are no receipts to wait for.")
            return True
        deadline = time.monotonic() + wait
        missing = 0
        for workflow, applied in made.items():
            if applied is not None:
                missing += not wait_for_receipts(self.target, self.org, workflow, applied, deadline, self.as_json)
        return not missing


def _json(org: str, workflow: str, applied: Applied) -> dict[str, Any]:
    """Return a change that was refused, in JSON's terms: the workflow has the state that it had before."""
    return {
        "type": "change",
        "status": applied.status,
        "organization_id": org,
        "workflow_id": workflow,
        "state": applied.previous,
        "version": applied.version,
        "previous": applied.previous,
        "message_id": applied.message_id,
    }


kill = _command(
    "kill",
    State.KILLED,
    "Kill a workflow: its agents stop for good. This is final: only resume or pause with --force leaves it.",
)
pause = _command("pause", State.PAUSED, "Pause a workflow: its agents stop until it is resumed.")
resume = _command("resume", State.NORMAL, "Resume a paused workflow, or clear a flag.")
