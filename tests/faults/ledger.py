"""What was done in a run, by whom and when: what the judge compares with what clients know."""

import attrs


@attrs.define(eq=False)
class Deed:
    """One control message that a publisher sent.

    Attributes:
        org, kind, workflow, state: what it was; workflow and state are empty for what is no state change.
        tag: unique; it travels in the message as its reason, note or id.
        plain: it was a plain PUBLISH rather than a call of the script.
        began, ended: unix times.
        status: the script's answer; for a plain one "heard" or "unheard"; "" while that is unknown.
        message_id, version, epoch, seq: as the script answered; the id may have been brought.
        heard: how many brokers heard a plain one.
        forced: it may leave Killed.
    """

    org: str
    kind: str
    tag: str
    plain: bool
    began: float
    workflow: str = ""
    state: str = ""
    ended: float = 0.0
    status: str = ""
    message_id: str = ""
    version: int = 0
    epoch: str = ""
    seq: int = 0
    heard: int = 0
    forced: bool = False


@attrs.define(eq=False)
class Trouble:
    """Something that was broken: what, which broker ("" for all), from when to when in unix time."""

    what: str
    broker: str
    began: float
    ended: float = float("inf")

    @property
    def over(self) -> bool:
        """Whether it is mended."""
        return self.ended != float("inf")


@attrs.define(eq=False)
class Event:
    """One event with history that was published: its channel, number and offset."""

    channel: str
    number: int
    offset: str


@attrs.define(eq=False)
class Ledger:
    """All of it."""

    deeds: list[Deed] = attrs.field(factory=list)
    troubles: list[Trouble] = attrs.field(factory=list)
    events: list[Event] = attrs.field(factory=list)
    unsure_events: int = 0
    losses: list[float] = attrs.field(factory=list)  # when the store lost data
    faults: dict[str, int] = attrs.field(factory=dict)

    def count(self, what: str) -> None:
        """Count one fault."""
        self.faults[what] = self.faults.get(what, 0) + 1

    def trouble(self, what: str, broker: str, began: float) -> Trouble:
        """Note that something breaks now."""
        made = Trouble(what, broker, began)
        self.troubles.append(made)
        return made
