"""What the load of a soak consists of."""

import attrs

__all__ = ["Plan"]


@attrs.frozen
class Plan:
    """How much of everything; the defaults are what `make soak` runs.

    Attributes:
        seconds: how long the load lasts.
        sample_every: seconds between two samples.
        viewers: event sockets.
        channels: that they watch; one in six keeps a history, and those who return to it ask for what they missed.
        orgs: organizations, each with `agents_per_org` control sockets and `workflows` workflows.
        publications_per_second: events, over all channels.
        changes_per_second: of states, over all organizations; one in four comes as a plain PUBLISH.
        churn_per_second: viewers that leave and return; half of them without a farewell.
        guests_per_second: viewers that subscribe to a second channel, or leave it.
        agent_churn_per_second: agents that leave and return.
        agent_ping_every: seconds between two `ping` messages of an agent.
    """

    seconds: float = 1800.0
    sample_every: float = 5.0
    viewers: int = 300
    channels: int = 30
    orgs: int = 6
    agents_per_org: int = 10
    workflows: int = 10
    publications_per_second: float = 300.0
    changes_per_second: float = 5.0
    churn_per_second: float = 2.0
    guests_per_second: float = 2.0
    agent_churn_per_second: float = 0.5
    agent_ping_every: float = 15.0

    @property
    def agents(self) -> int:
        """Control sockets in all."""
        return self.orgs * self.agents_per_org

    @property
    def channel_names(self) -> tuple[str, ...]:
        """The channels; those of `epic` keep a history."""
        kinds = ("workflow", "workflow", "workflow", "workflow", "execution", "epic")
        return tuple(f"{kinds[number % len(kinds)]}:{number}" for number in range(self.channels))

    @property
    def org_names(self) -> tuple[str, ...]:
        """The organizations."""
        return tuple(f"org-{number}" for number in range(self.orgs))
