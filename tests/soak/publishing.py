"""What is published in a soak: numbered events, and changes of states."""

import json
import random
import time
from collections import Counter

import trio

from broker.config.model import History
from broker.publisher import Publisher
from broker.publisher.event import encode_event
from tests.soak.ledger import Ledger
from tests.soak.plan import Plan

__all__ = ["HISTORY", "Newsroom", "Operator"]

HISTORY = {"epic": History(size=200, ttl=300)}
TICK = 0.02
STATES = ("Normal", "Flagged", "Paused", "Normal", "Tripped")
PADDING = "x" * 100


class Newsroom:
    """Publishes numbered events, the channels in turn.

    Attributes:
        numbers: of each channel, that of the newest event.
    """

    def __init__(self, plan: Plan, url: str, ledger: Ledger) -> None:
        self.numbers: Counter[str] = Counter()
        self._plan = plan
        self._publisher = Publisher(url, history=HISTORY)
        self._ledger = ledger
        self._turn = 0

    async def run(self) -> None:
        """Publish at a steady rate, until cancelled."""
        began, done = trio.current_time(), 0
        while True:
            await trio.sleep(TICK)
            due = int((trio.current_time() - began) * self._plan.publications_per_second)
            if due > done:
                await trio.to_thread.run_sync(self._publish, due - done)
                done = due

    async def everywhere(self) -> None:
        """Publish one event on each channel."""
        await trio.to_thread.run_sync(self._publish, self._plan.channels)

    def _publish(self, count: int) -> None:
        names = self._plan.channel_names
        with self._publisher.client.pipeline(transaction=False) as pipeline:
            for _ in range(count):
                channel = names[self._turn % len(names)]
                self._turn += 1
                self.numbers[channel] += 1
                data = {"number": self.numbers[channel], "padding": PADDING}
                if channel.startswith("epic:"):
                    self._publisher.broadcast(channel, "numbered", data)
                else:
                    pipeline.publish(channel, encode_event(channel, "numbered", data, time.time()))
            pipeline.execute()
        self._ledger.counts["events published"] += count


class Operator:
    """Changes the states of workflows: through the script, and with a plain PUBLISH now and then."""

    def __init__(self, plan: Plan, url: str, ledger: Ledger, dice: random.Random) -> None:
        self._plan = plan
        self._publisher = Publisher(url, actor="soak", history={})
        self._plain = self._publisher.client
        self._ledger = ledger
        self._dice = dice

    async def run(self) -> None:
        """Publish at a steady rate, until cancelled."""
        while True:
            await trio.sleep(self._dice.uniform(0.5, 1.5) / self._plan.changes_per_second)
            await trio.to_thread.run_sync(self._change)

    def _change(self) -> None:
        org = self._dice.choice(self._plan.org_names)
        workflow = f"wf-{self._dice.randrange(self._plan.workflows)}"
        state = self._dice.choice(STATES)
        if self._dice.random() < 0.25:
            heard = self._plain.publish(
                f"control:{org}", json.dumps({"type": "state_change", "workflow_id": workflow, "state": state})
            )
            if heard != 1:
                self._ledger.complain(f"{heard} brokers heard a plain PUBLISH")
            self._ledger.counts["plain state changes"] += 1
        else:
            self._publisher.state_change(org, workflow, state, "soak")
            self._ledger.counts["state changes"] += 1
