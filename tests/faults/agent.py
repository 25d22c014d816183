"""An agent as an SDK makes it: verifies every signature, drops what is not newer, acknowledges."""

import json
import random
import socket
import time
from typing import Any

import attrs
import trio

from broker.store.keys import NewKey
from protocol.signing import EMPTY_BODY_HASH, ack_body, body_hash, signature, verify_envelope
from tests.faults.process import BrokerChild
from tests.support.ws_client import Closed, Rejected, WsClient

WANT_ACK = ("Killed", "Paused")
PATIENCE = 600.0


@attrs.define(eq=False)
class Session:
    """One connection of an agent, in unix time.

    Attributes:
        broker: which one, as name and life.
        snapshots: when an initial_state came, and of each the version and state of its workflows.
        received: message_id -> when it came first.
        acked: message_id -> when it was acknowledged.
        abandoned: it was left open and is not read any more.
    """

    broker: tuple[str, int]
    opened: float
    closed: float = float("inf")
    snapshots: list[tuple[float, dict[str, tuple[int, str]]]] = attrs.field(factory=list)
    received: dict[str, float] = attrs.field(factory=dict)
    acked: dict[str, float] = attrs.field(factory=dict)
    abandoned: bool = False
    end: str = ""


class Agent:
    """One agent, which connects again as a supervisor would have it do.

    Args:
        name: in reports.
        key: its own API key.
        brokers: where it may connect.
        dice: its own random numbers.
        acks: how it acknowledges: "signed", "plain" or "never".

    Attributes:
        known: workflow -> the version and state that it acts upon.
        sessions: its connections, the newest last.
        complaints: what a client must never see.
    """

    def __init__(self, name: str, key: NewKey, brokers: list[BrokerChild], dice: random.Random, acks: str) -> None:
        self.name = name
        self.org = key.record.organization_id
        self.bound = key.record.workflow_id
        self.key_id = key.record.key_id
        self.acks = acks
        self.known: dict[str, tuple[int, str]] = {}
        self.sessions: list[Session] = []
        self.complaints: list[str] = []
        self.messages = 0
        self.resyncs = 0
        self.connected = False
        self._key = key
        self._brokers = brokers
        self._dice = dice
        self._client: WsClient | None = None
        self._reading = trio.Event()
        self._reading.set()
        self._zombies: list[WsClient] = []
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Be connected, until cancelled."""
        try:
            while True:
                broker = self._dice.choice(self._brokers)
                try:
                    await self._connect(broker)
                except (OSError, Closed, Rejected, trio.BrokenResourceError, trio.TooSlowError) as error:
                    if isinstance(error, Rejected) and error.status not in (429, 503):
                        self.complaints.append(f"refused with {error.status} {error.body!r}")
                    await trio.sleep(0.1)
                    continue
                with trio.CancelScope() as self._scope:
                    await self._serve()
        finally:
            for client in (*self._zombies, self._client):
                if client is not None:
                    with trio.CancelScope(shield=True):
                        await client.kill()

    def stall(self) -> None:
        """Read nothing any more after the next message."""
        if self._reading.is_set():
            self._reading = trio.Event()

    def go_on(self) -> None:
        """Read again."""
        self._reading.set()

    async def cut(self) -> None:
        """Lose the connection."""
        if self._client is not None:
            await self._client.kill()

    def abandon(self) -> None:
        """Leave the connection half open, unread, and connect anew."""
        if self._client is not None and self.connected:
            self._zombies.append(self._client)
            self._client = None
            self.sessions[-1].abandoned = True
            self._scope.cancel()

    async def _connect(self, broker: BrokerChild) -> None:
        secret = self._key.record.secret_key
        assert secret is not None
        now = int(time.time())
        headers = {
            "X-API-Key": self._key.api_key,
            "X-Signature": signature(secret, now, self._key.api_key, EMPTY_BODY_HASH),
            "X-Signature-Timestamp": str(now),
        }
        life = (broker.name, broker.lives)
        with trio.fail_after(10):
            self._client = await WsClient.connect(
                ("127.0.0.1", broker.port), f"/ws/control/{self.org}", headers, patience=PATIENCE
            )
        assert isinstance(self._client.stream, trio.SocketStream)
        self._client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # a stall is to be felt
        self.sessions.append(Session(life, time.time()))

    async def _serve(self) -> None:
        client, session = self._client, self.sessions[-1]
        assert client is not None
        try:
            while True:
                await self._reading.wait()
                await self._take(client, session, await client.receive())
        except Closed as closed:
            session.end = str(closed)
            if closed.code not in (1006, 1012):
                self.complaints.append(f"{closed}")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            session.end = type(error).__name__
        finally:
            self.connected = False
            session.closed = min(session.closed, time.time())
            if self._client is client:
                self._client = None
                with trio.CancelScope(shield=True):
                    await client.kill()

    async def _take(self, client: WsClient, session: Session, text: str | bytes) -> None:
        secret = self._key.record.secret_key
        assert secret is not None
        now = time.time()
        message: dict[str, Any] = json.loads(verify_envelope(text, secret, api_key=self._key.api_key, now=now))
        self.messages += 1
        if message.get("organization_id", self.org) != self.org:
            self.complaints.append(f"a message of {message['organization_id']}")
        tag = message.get("reason") or message.get("note") or ""
        if "/" in tag and not tag.startswith(f"{self.org}/"):
            self.complaints.append(f"text of another organization: {tag}")
        match message["type"]:
            case "initial_state":
                found = {each["workflow_id"]: (each["version"], each["state"]) for each in message["workflows"]}
                session.snapshots.append((now, found))
                self.connected = True
                for workflow, what in found.items():
                    self._learn(workflow, *what)
                return
            case "resync_required":
                self.resyncs += 1
                return
            case "error":
                self.complaints.append(f"an error: {message}")
                return
        if not session.snapshots:
            self.complaints.append(f"{message['type']} before the snapshot")
        message_id = message["message_id"]
        first = message_id not in session.received
        session.received.setdefault(message_id, now)
        if message["type"] == "state_change":
            workflow, version, state = message["workflow_id"], message["version"], message["state"]
            self._learn(workflow, version, state, first=first)
        if message["type"] == "approval_resolved" or message.get("state") in WANT_ACK:
            await self._acknowledge(client, session, message_id)

    def _learn(self, workflow: str, version: int, state: str, *, first: bool = False) -> None:
        known = self.known.get(workflow, (-1, ""))
        if version > known[0]:
            self.known[workflow] = (version, state)
        elif version == known[0] and state != known[1]:
            self.complaints.append(f"conflict: {workflow} is {known[1]} and {state} at version {version}")

    async def _acknowledge(self, client: WsClient, session: Session, message_id: str) -> None:
        if self.acks == "never":
            return
        now = int(time.time())
        ack: dict[str, Any] = {"type": "ack", "message_id": message_id, "received_at": now}
        if self.acks == "signed":
            secret = self._key.record.secret_key
            assert secret is not None
            made = signature(secret, now, self._key.api_key, body_hash(ack_body(message_id, now)))
            ack |= {"api_key": self._key.api_key, "timestamp": now, "signature": made}
        await client.send_json(**ack)
        session.acked.setdefault(message_id, time.time())
