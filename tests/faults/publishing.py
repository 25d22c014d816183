"""Publishers: control messages through the script and as plain PUBLISH, and numbered events with history."""

import itertools
import json
import random
import time
from typing import Any

import redis
import trio

from broker.config.model import History
from broker.publisher import Publisher, Refused
from broker.publisher.event import encode_event
from broker.store.applied import Applied
from broker.store.drive import run_sync
from broker.store.history import HistorySettings, publish_event
from broker.store.layout import Layout
from tests.faults.ledger import Deed, Event, Ledger
from tests.faults.store import Store

_HISTORY = HistorySettings({"workflow": History(size=100000, ttl=3600)})


class Unheard(Layout):
    """The layout of a publisher whose live messages get lost on the way: they reach the log only."""

    def live(self, organization_id: str) -> str:
        return f"lost:{organization_id}"


class Cutter(redis.Redis):
    """A client after whose every command all subscribers lose their connections, before they can be written to."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        with self.pipeline(transaction=False) as pipeline:
            pipeline.execute_command(*args)  # type: ignore[no-untyped-call]
            pipeline.execute_command("CLIENT", "KILL", "TYPE", "pubsub")  # type: ignore[no-untyped-call]
            reply, _ = pipeline.execute(raise_on_error=False)
        if isinstance(reply, Exception):
            raise reply
        return reply


class Operator:
    """Changes one organization all the time, drawn from its own random numbers.

    Calls that fail are repeated with the same message_id until they are answered, as careful publishers do.
    """

    def __init__(
        self, org: str, workflows: list[str], store: Store, ledger: Ledger, dice: random.Random, pause: float
    ) -> None:
        self.org = org
        self.workflows = workflows
        self.unanswered = 0
        self._store = store
        self._ledger = ledger
        self.dice = dice
        self._pause = pause
        self._numbers = itertools.count(1)
        self._client = store.connect()
        self._killed: set[str] = set()
        self._gate = trio.Event()
        self._gate.set()
        self._busy = trio.Lock()

    async def run(self) -> None:
        """Publish, until cancelled."""
        while True:
            await self.act()
            await trio.sleep(self.dice.expovariate(1 / self._pause))

    async def hold(self) -> None:
        """Stop after what is under way; returns when it is answered."""
        if self._gate.is_set():
            self._gate = trio.Event()
        async with self._busy:
            pass

    def go_on(self) -> None:
        """Publish again."""
        self._gate.set()

    async def act(self) -> None:
        """Send one message of any kind."""
        kind = self.dice.choices(
            ("state_change", "policy_invalidated", "approval_resolved", "key_rotated"), (80, 8, 8, 4)
        )[0]
        workflow = self.dice.choice(self.workflows) if kind in ("state_change", "approval_resolved") else ""
        state, forced = "", False
        if kind == "state_change":
            state = self.dice.choices(("Normal", "Flagged", "Tripped", "Paused", "Killed"), (30, 20, 20, 26, 4))[0]
            if workflow in self._killed and state != "Killed":
                forced = self.dice.random() < 0.1
        plain = not forced and self.dice.random() < 0.4
        await self.send(kind, workflow, state, plain=plain, forced=forced)

    async def kill(self, layout: Layout | None = None) -> Deed:
        """Kill some workflow through the script."""
        return await self.send("state_change", self.dice.choice(self.workflows), "Killed", layout=layout)

    async def send(self, *args: Any, **options: Any) -> Deed:
        """Send one message and note what came of it, when nobody holds this operator; see `_send`."""
        while True:
            await self._gate.wait()
            async with self._busy:
                if self._gate.is_set():
                    return await self._send(*args, **options)

    async def _send(
        self,
        kind: str,
        workflow: str = "",
        state: str = "",
        *,
        plain: bool = False,
        forced: bool = False,
        layout: Layout | None = None,
        padding: int = 0,
        cutting: bool = False,
    ) -> Deed:
        """Send one message and note what came of it; a call of the script is repeated until it is answered."""
        tag = f"{self.org}/{next(self._numbers)}"
        deed = Deed(self.org, kind, tag, plain, time.time(), workflow, state, forced=forced)
        self._ledger.deeds.append(deed)
        if plain:
            await trio.to_thread.run_sync(self._publish, deed, self.dice.random() < 0.5)
        else:
            deed.message_id = tag.replace("/", "-")
            while not deed.status:
                if not self._store.up or not await trio.to_thread.run_sync(self._apply, deed, layout, padding, cutting):
                    self.unanswered += 1
                    await trio.sleep(0.05)
        deed.ended = time.time()
        if state == "Killed":
            self._killed.add(workflow)
        return deed

    def _publish(self, deed: Deed, with_id: bool) -> None:
        body: dict[str, object] = {"type": deed.kind}
        if with_id:
            deed.message_id = body["message_id"] = deed.tag.replace("/", "-")
        match deed.kind:
            case "state_change":
                body |= {"workflow_id": deed.workflow, "state": deed.state.upper(), "reason": deed.tag}
            case "policy_invalidated":
                body |= {"policy_id": deed.tag.replace("/", "-"), "new_version": 1}
            case "key_rotated":
                body |= {"key_id": deed.tag.replace("/", "-"), "new_version": 1}
            case "approval_resolved":
                body |= {
                    "approval_id": deed.tag.replace("/", "-"),
                    "workflow_id": deed.workflow,
                    "execution_id": "x",
                    "outcome": "approved",
                    "note": deed.tag,
                    "resolved_at": int(time.time()),
                }
        try:
            deed.heard = int(self._client.publish(f"control:{self.org}", json.dumps(body)))
        except redis.exceptions.RedisError:
            return
        deed.status = "heard" if deed.heard else "unheard"

    def _apply(self, deed: Deed, layout: Layout | None, padding: int, cutting: bool) -> bool:
        client = self._store.connect(Cutter) if cutting else self._client
        publisher = Publisher(client, actor="faults")
        if layout is not None:
            publisher.layout = layout
        try:
            applied = self._call(publisher, deed, padding)
        except Refused as refused:
            applied = refused.applied
        except redis.exceptions.RedisError:
            return False
        deed.status = applied.status.value
        deed.version, deed.epoch, deed.seq, deed.message_id = (
            applied.version,
            applied.epoch or "",
            applied.seq,
            applied.message_id,
        )
        return True

    def _call(self, publisher: Publisher, deed: Deed, padding: int) -> Applied:
        name = deed.tag.replace("/", "-")
        match deed.kind:
            case "state_change":
                reason = deed.tag + " " * padding
                return publisher.state_change(
                    self.org, deed.workflow, deed.state, reason, force=deed.forced, message_id=name
                )
            case "policy_invalidated":
                return publisher.policy_invalidated(self.org, name, 1, message_id=name)
            case "key_rotated":
                return publisher.key_rotated(self.org, name, 1, message_id=name)
            case _:
                return publisher.approval_resolved(
                    self.org, name, deed.workflow, "x", "approved", deed.tag, message_id=name
                )


class Newsroom:
    """Publishes numbered events on one channel that keeps its history."""

    def __init__(self, channel: str, store: Store, ledger: Ledger, dice: random.Random, pause: float) -> None:
        self.channel = channel
        self._store = store
        self._client = store.connect()
        self._ledger = ledger
        self.dice = dice
        self._pause = pause

    async def run(self) -> None:
        """Publish, until cancelled."""
        for number in itertools.count(1):
            if self._store.up:
                await trio.to_thread.run_sync(self._publish, number)
            await trio.sleep(self.dice.expovariate(1 / self._pause))

    def _publish(self, number: int) -> None:
        payload = encode_event(self.channel, "numbered", {"number": number}, time.time(), 65536)
        try:
            published = run_sync(self._client, publish_event(Layout(), self.channel, payload, _HISTORY))
        except redis.exceptions.RedisError:
            self._ledger.unsure_events += 1
            return
        assert published.offset is not None
        self._ledger.events.append(Event(self.channel, number, published.offset))
