"""The three links to Redis that a broker process holds."""

from collections.abc import Callable
from typing import Any

import attrs
import trio

from broker.link.address import Address
from broker.link.connection import DEMOTED
from broker.link.errors import LinkDown
from broker.link.link import Link
from broker.link.subscriptions import SubscriptionLink

Push = list[list[bytes]]

FIRST_ATTEMPT = 1.5
"""Seconds that a start waits for what comes of the first attempts to connect."""


@attrs.define(eq=False)
class Hearers:
    """Who hears what the links bring.

    It is filled in after the links are made: the parts that hear them are built from them.
    """

    control: Callable[[Push], Any] | None = None
    events: Callable[[Push], Any] | None = None
    control_restored: Callable[[], None] | None = None
    events_restored: Callable[[], None] | None = None
    commands_up: list[Callable[[], None]] = attrs.field(factory=list)


@attrs.frozen(eq=False)
class Links:
    """Commands, control subscriptions and event subscriptions: a kill never waits behind events, not even at Redis."""

    commands: Link
    control: SubscriptionLink
    events: SubscriptionLink
    hearers: Hearers

    @property
    def all(self) -> tuple[Link, ...]:
        """All three, in the order in which they are opened."""
        return self.commands, self.control, self.events

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep all three open until cancelled.

        Started after the first attempt of each, whatever came of it, or after `FIRST_ATTEMPT` seconds: a server that
        takes connections and is mute does not keep the door closed.
        """
        attempted = trio.Event()

        async def attempt() -> None:
            for link in self.all:
                await links.start(link.run)
            attempted.set()

        async with trio.open_nursery() as links:
            links.start_soon(attempt)
            with trio.move_on_after(FIRST_ATTEMPT):
                await attempted.wait()
            task_status.started()


def build_links(address: Address) -> Links:
    """Make the links; nothing is connected yet. One that finds the server demoted has all leave it."""
    hearers = Hearers()

    async def on_control(batch: Push) -> None:
        if hearers.control is not None:
            await hearers.control(batch)

    async def on_events(batch: Push) -> None:
        if hearers.events is not None:
            await hearers.events(batch)

    def commands_up() -> None:
        for hearer in hearers.commands_up:
            hearer()

    def control_restored() -> None:
        if hearers.control_restored is not None:
            hearers.control_restored()

    def events_restored() -> None:
        if hearers.events_restored is not None:
            hearers.events_restored()

    def on_down(error: LinkDown) -> None:
        # A demoted server still takes subscriptions, but what is published goes to its successor.
        if str(error) == DEMOTED:
            for link in links.all:
                link.leave(DEMOTED)

    links = Links(
        Link(address, "signalbox-commands", on_up=commands_up, on_down=on_down),
        SubscriptionLink(
            address,
            "signalbox-control",
            on_push=on_control,
            on_restored=control_restored,
            on_down=on_down,
        ),
        SubscriptionLink(
            address,
            "signalbox-events",
            on_push=on_events,
            on_restored=events_restored,
            on_down=on_down,
        ),
        hearers,
    )
    return links
