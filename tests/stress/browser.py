"""A browser of a stress run: it comes back where it should, and insists on every number in between."""

import math
import random
import ssl

import attrs
import orjson
import trio

from tests.soak.ledger import Ledger
from tests.support.lean_client import LeanClient, Refused
from tests.support.ws_client import Closed

__all__ = ["Browser", "Place"]

COME_BACK = frozenset({1001, 1006, 1012})
"""Codes after which a client is to connect again; 1006 is no code at all."""
PING = b'{"type":"ping"}'
PONG = b'{"type":"pong"}'


@attrs.frozen
class Place:
    """Where the broker is."""

    address: tuple[str, int]
    tls: ssl.SSLContext
    patience: float


class Browser:
    """One event socket with its channels.

    Attributes:
        opened: when it was last let in, on Trio's clock.
        connected: set while all channels are subscribed to.
        ends: what ended it for good: a close code, or an HTTP status of a refusal.
        gone: it shall not come back.
    """

    def __init__(self, name: str, place: Place, token: str, channels: tuple[str, ...], ledger: Ledger) -> None:
        self.name = name
        self.token = token
        self.opened = math.inf
        self.connected = trio.Event()
        self.ends: int | None = None
        self.gone = False
        self.resyncs = 0
        self.last: dict[str, int | None] = {}
        self._place = place
        self._channels = channels
        self._ledger = ledger
        self._client: LeanClient | None = None
        self._live: set[str] = set()

    async def run(self) -> None:
        """Be connected until cancelled, told to go, or closed with a code after which one does not come back."""
        while not self.gone and self.ends is None:
            try:
                client = self._client = await LeanClient.connect(
                    self._place.address, f"/ws/?token={self.token}", tls=self._place.tls, patience=self._place.patience
                )
                self.opened = trio.current_time()
                if not self.gone:  # it may have been told to go meanwhile
                    await self._serve(client)
            except Refused as refused:
                self._ledger.counts[f"browsers refused with {refused.status}"] += 1
                if refused.status == 401:
                    self.ends = refused.status
                await trio.sleep(0.5)
            except Closed as closed:
                self._ledger.counts[f"browsers closed with {closed.code}"] += 1
                if closed.code not in COME_BACK and not self.gone:
                    self.ends = closed.code
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                if not self.gone:
                    await trio.sleep(0.1)
            except trio.TooSlowError:
                self._ledger.complain(f"{self.name} got no connection in {self._place.patience:g} s")
            finally:
                self.connected = trio.Event()
                if self._client is not None:
                    with trio.CancelScope(shield=True):
                        await self._client.kill()

    async def cut(self) -> None:
        """Lose the connection; it is not connected from this moment on, whenever it notices itself."""
        if self._client is not None:
            self.connected = trio.Event()
            await self._client.kill()

    async def leave(self) -> None:
        """Lose the connection, and do not come back."""
        self.gone = True
        await self.cut()

    async def wander(self, times: int, dice: random.Random) -> None:
        """Leave channels, and subscribe to them again; it is connected again once it has them all."""
        for _ in range(times):
            client, channel = self._client, dice.choice(self._channels)
            if client is None:
                return
            try:
                self._live.discard(channel)
                self.connected = trio.Event()
                await client.send(orjson.dumps({"type": "unsubscribe", "channel": channel}))
                await client.send(orjson.dumps({"type": "subscribe", "channel": channel}))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            await trio.sleep(dice.uniform(0, 0.2))

    async def _serve(self, client: LeanClient) -> None:
        self._live.clear()
        self.last = dict.fromkeys(self._channels)
        for channel in self._channels:
            await client.send(orjson.dumps({"type": "subscribe", "channel": channel}))
        while True:
            for payload in await client.receive():
                await self._take(client, orjson.loads(payload))

    async def _take(self, client: LeanClient, message: dict[str, object]) -> None:
        channel = str(message.get("channel"))
        match message["type"]:
            case "numbered":
                if channel in self._live:
                    self._number(channel, message["data"])
            case "ping":
                await client.send(PONG)
            case "subscribed":
                self.last[channel] = None
                self._live.add(channel)
                if len(self._live) == len(self._channels):
                    self.connected.set()
            case "unsubscribed":
                self._ledger.counts["unsubscribed"] += 1
            case "resync_required":
                self._ledger.counts["resyncs"] += 1
                self.resyncs += 1
                self.last[channel] = None
            case _:
                self._ledger.complain(f"{self.name}: unexpected {message}")

    def _number(self, channel: str, data: object) -> None:
        assert isinstance(data, dict)
        found, last = int(data["number"]), self.last[channel]
        if last is not None and found != last + 1:
            self._ledger.complain(f"{self.name}: {channel} went from {last} to {found}")
        self.last[channel] = found
        self._ledger.counts["events received"] += 1
