"""What must hold at the end of a run, whatever was broken."""

import json
import time
from collections import Counter
from typing import Any

import attrs

from broker.store.drive import run_sync
from broker.store.log import LogEntry, read_log
from broker.store.receipts import Delivery, Receipt, ReceiptStatus, read_receipt
from broker.store.snapshot import Position, Snapshot
from tests.faults.agent import Agent
from tests.faults.browser import Browser, offset_key
from tests.faults.ledger import Deed
from tests.faults.world import LAYOUT, World

EARLY, LATE = 0.5, 1.0
"""Seconds around a disturbance in which what a broker has heard may be lost with it."""


@attrs.frozen
class Entry:
    """One entry of an organization's log with what it says."""

    seq: int
    ms: int
    body: dict[str, Any]

    @classmethod
    def of(cls, entry: LogEntry) -> "Entry":
        """Decode an entry."""
        return cls(entry.seq, entry.ms, json.loads(entry.message))

    @property
    def tag(self) -> str:
        """What the ledger calls the deed behind it."""
        body = self.body
        text = body.get("reason") or body.get("note")
        if text is not None:
            return str(text).rstrip()
        return str(body.get("policy_id") or body.get("key_id")).replace("-", "/", 1)

    @property
    def message_id(self) -> str:
        """Its message id."""
        return str(self.body["message_id"])

    @property
    def workflow(self) -> str:
        """The workflow whose state it changes, or ""."""
        return str(self.body["workflow_id"]) if self.body["type"] == "state_change" else ""

    @property
    def state(self) -> str:
        """The state that it sets, or ""."""
        return str(self.body.get("state", ""))


class Judge:
    """Compares what everybody knows. `violations` is what must be empty; `figures` are counts."""

    def __init__(self, world: World) -> None:
        self.violations: list[str] = []
        self.figures: Counter[str] = Counter()
        self._world = world
        self._ledger = world.ledger
        self._lossless = not world.ledger.losses

    def judge(self) -> None:
        """Judge everything."""
        for operator, snapshot in zip(self._world.operators, self._world.snapshots(), strict=True):
            log = self._log(operator.org, snapshot)
            self._judge_deeds(operator.org, log)
            self._judge_states(snapshot, log)
            agents = [agent for agent in self._world.agents if agent.org == operator.org]
            for agent in agents:
                self._judge_agent(agent, snapshot, log)
            self._judge_receipts(operator.org, log, agents)
        for browser in self._world.browsers:
            self._judge_browser(browser)
        for broker in self._world.brokers:
            self.figures["broker lives"] += broker.lives
            for status in broker.crashes:
                self._accuse(f"{broker.name} exited with {status}") if status != 1 else self.figures.update(
                    ["broker could not start"]
                )

    def _accuse(self, what: str) -> None:
        self.violations.append(what)

    def _log(self, org: str, snapshot: Snapshot) -> list[Entry]:
        read = run_sync(self._world.store.client, read_log(LAYOUT, org, Position(None, 0, 0), 1_000_000))
        log = [Entry.of(entry) for entry in read.entries]
        if self._lossless and [entry.seq for entry in log] != list(range(1, snapshot.seq + 1)):
            self._accuse(f"{org}: the log has holes")
        self.figures["log entries"] += len(log)
        return log

    def _judge_deeds(self, org: str, log: list[Entry]) -> None:
        """No acknowledged publish is lost, and none counts twice."""
        found = Counter(entry.tag for entry in log)
        killed = {entry.workflow for entry in log if entry.state == "Killed"}
        last_loss = max(self._ledger.losses, default=0.0)
        for deed in (deed for deed in self._ledger.deeds if deed.org == org):
            self.figures["plain" if deed.plain else "script"] += 1
            times = found[deed.tag]
            if times > 1 and self._lossless:
                if deed.plain and deed.state in ("Killed", "Paused") and self._any_trouble_near(deed):
                    self.figures["plain applied twice"] += 1
                else:
                    self._accuse(f"{deed} is in the log {times} times")
            if times or deed.began < last_loss:
                continue
            if not deed.plain:
                if deed.status == "applied":
                    self._accuse(f"acknowledged and lost: {deed}")
                else:
                    self.figures[f"script {deed.status}"] += 1
            elif deed.status != "heard":
                self.figures[f"plain {deed.status or 'unanswered'}"] += 1
            elif deed.workflow in killed and deed.state != "Killed" and deed.kind == "state_change":
                self.figures["plain terminal"] += 1
            elif self._all_disturbed(deed.began, deed.ended):
                self.figures["plain lost with every hearer"] += 1
            else:
                self._accuse(f"heard and lost: {deed}")

    def _judge_states(self, snapshot: Snapshot, log: list[Entry]) -> None:
        """What is stored is what the log ends with, versions rise in it, and nothing leaves Killed without force."""
        newest: dict[str, Entry] = {}
        for entry in log:
            if entry.workflow:
                before = newest.get(entry.workflow)
                if before is not None and entry.body["version"] <= before.body["version"]:
                    self._accuse(f"versions do not rise: {before} {entry}")
                left = before is not None and before.state == "Killed" and entry.state != "Killed"
                if left and not self._forced(entry):
                    self._accuse(f"Killed was left: {before} {entry}")
                newest[entry.workflow] = entry
        for name, stored in snapshot.workflows.items():
            last = newest.get(name)
            if last is None:
                self._accuse(f"{name} is not in the log")
                continue
            if (stored.workflow.version, stored.workflow.state) != (last.body["version"], last.state):
                self._accuse(f"stored {stored}, logged {last}")

    def _forced(self, entry: Entry) -> bool:
        """Whether Killed was left by force: by this very entry, or by one that was lost with the store."""
        return any(
            deed.forced
            and deed.workflow == entry.workflow
            and (deed.tag == entry.tag or any(deed.began < loss for loss in self._ledger.losses))
            for deed in self._ledger.deeds
        )

    def _judge_agent(self, agent: Agent, snapshot: Snapshot, log: list[Entry]) -> None:
        self.figures["sessions"] += len(agent.sessions)
        self.figures["messages"] += agent.messages
        for complaint in agent.complaints:
            self._accuse(f"{agent.name}: {complaint}")
        if agent.resyncs:
            self._accuse(f"{agent.name} was told to resync")
        if not agent.connected:
            self._accuse(f"{agent.name} is not connected")
        if not self._world.knows(agent, snapshot):
            unheard = self._world.unheard(agent)
            stored = {
                name: (each.workflow.version, each.workflow.state.value) for name, each in snapshot.workflows.items()
            }
            wrong = {
                name: (agent.known.get(name), stored.get(name))
                for name in stored.keys() | agent.known.keys()
                if agent.known.get(name) != stored.get(name) and agent.known.get(name, (1,))[0] > 0
            }
            self._accuse(f"{agent.name} does not know {wrong}, and has not heard {unheard}")
        self._judge_kills(agent, log)

    def _judge_kills(self, agent: Agent, log: list[Entry]) -> None:
        """Every kill reached every agent, by itself or in a snapshot, unless a snapshot came after it was lifted."""
        for entry in log:
            if entry.state != "Killed":
                continue
            self.figures["kills"] += 1
            version, learned, overtaken = entry.body["version"], False, False
            for session in agent.sessions:
                learned = learned or entry.message_id in session.received
                for at, snapshot in session.snapshots:
                    known = snapshot.get(entry.workflow, (0, ""))
                    learned = learned or (known[1] == "Killed" and known[0] >= version)
                    overtaken = overtaken or (known[0] > version and at * 1000 >= entry.ms)
            if learned:
                continue
            lifted = any(
                later.workflow == entry.workflow and later.seq > entry.seq and later.state != "Killed" for later in log
            )
            if lifted and overtaken:
                self.figures["kills lifted before"] += 1
            else:
                self._accuse(f"{agent.name} missed {entry}")

    def _judge_receipts(self, org: str, log: list[Entry], agents: list[Agent]) -> None:
        client = self._world.store.client
        by_key = {agent.key_id: agent for agent in agents}
        after = max(self._ledger.losses, default=0.0) + 5.0
        for entry in log:
            if entry.state not in ("Killed", "Paused") and entry.body["type"] != "approval_resolved":
                continue
            receipt = run_sync(client, read_receipt(LAYOUT, org, entry.message_id))
            if receipt is None:
                if self._lossless:
                    self._accuse(f"no receipt of {entry}")
                continue
            self.figures["receipts"] += 1
            for session in receipt.sessions:
                agent = by_key.get(session.key_id)
                if session.status is Delivery.CONFIRMED:
                    self.figures["confirmed"] += 1
                    if agent is not None and agent.acks == "never":
                        self._accuse(f"{agent.name} never acknowledged, but {receipt}")
                elif session.status is not Delivery.PENDING:
                    self.figures[session.status.value] += 1
                elif entry.ms / 1000 <= after and not self._lossless:
                    self.figures["pending, lost with the store"] += 1
                elif agent is not None and self._on_dead_broker(agent, entry.ms / 1000):
                    self.figures["pending, broker dead"] += 1
                elif agent is not None and self._was_abandoned(agent, entry.ms / 1000):
                    self.figures["pending, half open"] += 1
                elif receipt.status is ReceiptStatus.SUPERSEDED:
                    self.figures["pending, superseded"] += 1
                else:
                    self._accuse(f"{org}: nothing became of session {session} in {receipt.message_id}")
            if entry.ms / 1000 > after or self._lossless:
                self._judge_acks(entry, receipt, agents)

    def _on_dead_broker(self, agent: Agent, at: float) -> bool:
        """Whether an agent was, then or later, in a session on a broker that has died since."""
        lives = {(broker.name, broker.lives) for broker in self._world.brokers}
        return any(session.broker not in lives and at < session.closed + LATE for session in agent.sessions)

    def _was_abandoned(self, agent: Agent, at: float) -> bool:
        """Whether an agent had a connection by then that it left half open: it is kept for `control.silent_timeout`."""
        return any(session.abandoned and session.opened <= at for session in agent.sessions)

    def _judge_acks(self, entry: Entry, receipt: Receipt, agents: list[Agent]) -> None:
        """An ack that was sent on a broker that lived on stands in the receipt."""
        confirmed = Counter(each.key_id for each in receipt.sessions if each.status is Delivery.CONFIRMED)
        workflow = entry.body.get("workflow_id")
        for agent in agents:
            if agent.bound not in (None, workflow):
                continue
            acked = [(each, each.acked[entry.message_id]) for each in agent.sessions if entry.message_id in each.acked]
            if not acked or confirmed[agent.key_id]:
                continue
            if all(session.closed < at + 1.0 or self._died(session.broker, at) for session, at in acked):
                self.figures["acks lost with their broker or connection"] += 1
            elif receipt.status is ReceiptStatus.SUPERSEDED and not confirmed[""]:
                self.figures["acks of what was settled"] += 1
            else:
                self._accuse(f"{agent.name} acknowledged {entry.message_id} in vain: {receipt}")

    def _judge_browser(self, browser: Browser) -> None:
        """No gap, no double, all the way to the newest event, unless it was told so."""
        for complaint in browser.complaints:
            self._accuse(f"{browser.name}: {complaint}")
        self.figures["recoveries"] += browser.recoveries
        self.figures["not recovered"] += browser.unrecovered
        known = {event.offset for event in self._ledger.events} | set(self._world.offsets())
        everything = sorted(known, key=offset_key)
        for stretch in browser.stretches:
            self.figures["events"] += len(stretch)
            if not stretch:
                continue
            first, last = offset_key(stretch[0]), offset_key(stretch[-1])
            expected = {each for each in everything if first <= offset_key(each) <= last}
            missed = expected - set(stretch)
            if missed:
                self._accuse(f"{browser.name} missed {sorted(missed, key=offset_key)[:5]} of {len(missed)} unawares")
        if everything and browser.last != everything[-1]:
            self._accuse(f"{browser.name} has {browser.last}, the newest is {everything[-1]}")

    def _any_trouble_near(self, deed: Deed) -> bool:
        return any(each.began - 12 < deed.ended and deed.began < each.ended + 12 for each in self._ledger.troubles)

    def _all_disturbed(self, began: float, ended: float) -> bool:
        return all(self._disturbed(broker.name, began, ended) for broker in self._world.brokers)

    def _disturbed(self, broker: str, began: float, ended: float) -> bool:
        return any(
            each.broker in ("", broker) and each.began < ended + LATE and began < each.ended + EARLY
            for each in self._ledger.troubles
        )

    def _died(self, broker: tuple[str, int], at: float) -> bool:
        return any(
            each.what.startswith("broker") and each.broker == broker[0] and at - 1 < each.began < at + 3
            for each in self._ledger.troubles
        ) or any(each.what.startswith("store") and at - 3 < each.began < at + 3 for each in self._ledger.troubles)


def figures_of(world: World, judge: Judge, began: float) -> dict[str, Any]:
    """Return what a run amounts to, for the report."""
    return {
        "seconds": round(time.monotonic() - began, 1),
        "faults": dict(sorted(world.ledger.faults.items())),
        "unanswered calls": sum(operator.unanswered for operator in world.operators),
        "events published": len(world.ledger.events),
        **dict(sorted(judge.figures.items())),
    }
