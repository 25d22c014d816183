"""An agent of a soak: it verifies every signature, insists on every version, and acknowledges."""

import math
import ssl
import time

import orjson
import trio

from broker.store.keys import NewKey
from protocol.signing import EMPTY_BODY_HASH, signature, verify_envelope
from tests.soak.ledger import Ledger
from tests.support.lean_client import LeanClient, Refused
from tests.support.ws_client import Closed

__all__ = ["Agent"]

PATIENCE = 60.0


class Agent:
    """One control socket that comes back after `leave`.

    Args:
        name: in complaints.
        address: of the broker.
        key: its API key.
        ledger: where it counts.
        ping_every: seconds between two `ping` messages.
        tls: speak TLS.
        forgiving: connections may break; a refusal is never forgiven.

    Attributes:
        known: workflow -> the version and state that it acts upon.
        opened: when it was last let in, on Trio's clock.
        connected: set while it has its snapshot.
    """

    def __init__(
        self,
        name: str,
        address: tuple[str, int],
        key: NewKey,
        ledger: Ledger,
        ping_every: float,
        *,
        tls: ssl.SSLContext | None = None,
        forgiving: bool = False,
    ) -> None:
        self.name = name
        self.org = key.record.organization_id
        self.known: dict[str, tuple[int, str]] = {}
        self.opened = math.inf
        self.connected = trio.Event()
        self._address = address
        self._key = key
        self._secret = key.record.secret_key or ""
        self._ledger = ledger
        self._ping_every = ping_every
        self._tls = tls
        self._forgiving = forgiving
        self._client: LeanClient | None = None
        self._leaving = self._retired = False

    async def twin(self) -> LeanClient:
        """Open another connection with the same key, for somebody else to use."""
        now = int(time.time())
        headers = {
            "X-API-Key": self._key.api_key,
            "X-Signature": signature(self._secret, now, self._key.api_key, EMPTY_BODY_HASH),
            "X-Signature-Timestamp": str(now),
        }
        return await LeanClient.connect(
            self._address, f"/ws/control/{self.org}", headers, tls=self._tls, patience=PATIENCE
        )

    async def run(self) -> None:
        """Be connected, until cancelled or retired."""
        self._retired = False
        while not self._retired:
            try:
                self._client = await self.twin()
            except (Refused, Closed, OSError, trio.TooSlowError, trio.BrokenResourceError) as error:
                if not self._forgiving or isinstance(error, Refused | trio.TooSlowError):
                    self._ledger.complain(f"{self.name}: {error!r}")
                self._ledger.counts["agents could not connect"] += 1
                await trio.sleep(0.5)
                continue
            self._leaving = False
            self.opened = trio.current_time()
            try:
                async with trio.open_nursery() as session:
                    session.start_soon(self._ping, self._client)
                    await self._read(self._client)
                    session.cancel_scope.cancel()
            finally:
                self.connected = trio.Event()
                with trio.CancelScope(shield=True):
                    await self._client.kill()

    async def retire(self) -> None:
        """End the connection; `run` ends, too."""
        self._retired = True
        if self._client is not None:
            await self._client.kill()

    async def leave(self) -> None:
        """End the connection; `run` comes back at once."""
        if self._client is not None and self.connected.is_set() and not self._leaving:
            self._leaving = True
            self._ledger.counts["agents gone"] += 1
            await self._client.kill()

    async def _ping(self, client: LeanClient) -> None:
        while True:
            await trio.sleep(self._ping_every)
            try:
                await client.send(b'{"type":"ping"}')
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                return

    async def _read(self, client: LeanClient) -> None:
        try:
            while True:
                for payload in await client.receive():
                    await self._take(client, payload)
        except (Closed, trio.ClosedResourceError, trio.BrokenResourceError) as end:
            self._ledger.counts[f"agents closed with {getattr(end, 'code', 1006)}"] += 1
            if not self._leaving and not self._forgiving:
                self._ledger.complain(f"{self.name}: {end!r}")

    async def _take(self, client: LeanClient, payload: bytes) -> None:
        if payload == b'{"type":"pong"}':
            self._ledger.counts["control pongs"] += 1
            return
        body = verify_envelope(payload, self._secret, api_key=self._key.api_key, now=time.time())
        message = orjson.loads(body)
        match message["type"]:
            case "initial_state":
                if self.connected.is_set():
                    self._ledger.counts["snapshots in between"] += 1
                for each in message["workflows"]:
                    self.known[each["workflow_id"]] = each["version"], each["state"]
                self.connected.set()
            case "state_change":
                await self._change(client, message)
            case _:
                self._ledger.complain(f"{self.name}: unexpected {message}")

    async def _change(self, client: LeanClient, message: dict[str, object]) -> None:
        workflow, version, state = str(message["workflow_id"]), message["version"], str(message["state"])
        assert isinstance(version, int)
        known = self.known.get(workflow, (0, ""))[0]
        self._ledger.counts["state changes received"] += 1
        if version <= known:
            self._ledger.counts["state changes repeated"] += 1
        else:
            if version != known + 1 and self._forgiving:  # after trouble the newest state is all that counts
                self._ledger.counts["state changes skipped"] += 1
            elif version != known + 1:
                self._ledger.complain(f"{self.name}: {workflow} went from {known} to {version}")
            self.known[workflow] = version, state
        if state in ("Paused", "Killed"):
            ack = {"type": "ack", "message_id": message["message_id"], "received_at": int(time.time())}
            try:
                await client.send(orjson.dumps(ack))
                self._ledger.counts["acks sent"] += 1
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                return  # it is leaving
