"""A browser of a soak: it insists on every number of its channels, in order."""

import contextlib
import random

import attrs
import orjson
import trio

from tests.soak.ledger import Ledger
from tests.support.lean_client import LeanClient, Refused
from tests.support.ws_client import Closed

__all__ = ["Viewer"]

PING = b'{"type":"ping"}'
PONG = b'{"type":"pong"}'


@attrs.define
class _Watch:
    """A channel that is watched: the number and the offset of its newest event, and whether events count yet."""

    last: int | None = None
    offset: str | None = None
    live: bool = False


class Viewer:
    """One event socket that comes back after `leave`, always subscribed to its home channel.

    Args:
        name: in complaints.
        address: of the broker.
        token: its API key.
        home: the channel that it always watches.
        ledger: where it counts.
        dice: its own random numbers.
    """

    def __init__(
        self, name: str, address: tuple[str, int], token: str, home: str, ledger: Ledger, dice: random.Random
    ) -> None:
        self.name = name
        self.home = home
        self.connected = trio.Event()
        self._address = address
        self._target = f"/ws/?token={token}"
        self._ledger = ledger
        self._dice = dice
        self._client: LeanClient | None = None
        self._watched: dict[str, _Watch] = {home: _Watch()}
        self._leaving = False

    @property
    def level(self) -> dict[str, int | None]:
        """The number of the newest event of each channel that it is subscribed to for good."""
        return {channel: watch.last for channel, watch in self._watched.items() if watch.live}

    async def run(self) -> None:
        """Be connected, until cancelled."""
        try:
            while True:
                await self._visit()
        finally:
            if self._client is not None:
                with trio.CancelScope(shield=True):
                    await self._client.kill()

    async def leave(self) -> None:
        """End the connection, with a farewell or without one; `run` comes back at once."""
        client = self._client
        if client is None or self._leaving or not self.connected.is_set():
            return
        self._leaving = True
        if self._dice.random() < 0.5:
            self._ledger.counts["viewers gone without a farewell"] += 1
            await client.kill()
        else:
            self._ledger.counts["viewers closed"] += 1
            with contextlib.suppress(trio.BrokenResourceError):
                await client.farewell()

    async def visit_channel(self, channel: str) -> None:
        """Subscribe to a second channel, or leave the one that it visits."""
        client = self._client
        if client is None or self._leaving or not self.connected.is_set():
            return
        guests = [each for each in self._watched if each != self.home]
        if guests:
            del self._watched[guests[0]]
            await self._say(client, "unsubscribe", guests[0])
        elif channel != self.home:
            self._watched[channel] = _Watch()
            await self._say(client, "subscribe", channel)

    async def _visit(self) -> None:
        self._watched = {self.home: self._watched[self.home]}
        self._watched[self.home].live = False
        try:
            client = self._client = await LeanClient.connect(self._address, self._target)
            self._leaving = False
            await self._say(client, "subscribe", self.home)
            while True:
                for payload in await client.receive():
                    await self._take(client, payload)
        except (Refused, OSError, trio.TooSlowError) as error:
            self._ledger.complain(f"{self.name}: {error!r}")
            await trio.sleep(1)
        except (Closed, trio.ClosedResourceError, trio.BrokenResourceError) as end:
            if not self._leaving or (isinstance(end, Closed) and end.code not in (1000, 1006)):
                self._ledger.complain(f"{self.name}: {end!r}")
        finally:
            self.connected = trio.Event()
            gone, self._client = self._client, None
            if gone is not None:
                with trio.CancelScope(shield=True):
                    await gone.kill()

    async def _say(self, client: LeanClient, kind: str, channel: str) -> None:
        fields = {"type": kind, "channel": channel}
        watch = self._watched.get(channel)
        if kind == "subscribe" and watch is not None and watch.offset is not None:
            fields["since"] = watch.offset
        try:
            await client.send(orjson.dumps(fields))
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            return  # it is leaving

    async def _take(self, client: LeanClient, payload: bytes) -> None:
        if payload == PING:
            self._ledger.counts["event pings"] += 1
            await client.send(PONG)
            return
        message = orjson.loads(payload)
        kind, channel = message["type"], message.get("channel")
        watch = self._watched.get(channel)
        match kind:
            case "numbered":
                if watch is not None and watch.live:
                    self._number(channel, watch, message)
            case "subscribed":
                self._ledger.counts["subscribed"] += 1
                if watch is None:
                    return
                if "recovered" in message:
                    self._ledger.counts["histories recovered"] += bool(message["recovered"])
                    if not message["recovered"]:
                        self._ledger.complain(f"{self.name}: {channel} was not recovered")
                if not message.get("recovered"):
                    watch.last = None
                watch.live = True
                if channel == self.home:
                    self.connected.set()
            case "unsubscribed":
                self._ledger.counts["unsubscribed"] += 1
            case _:
                self._ledger.complain(f"{self.name}: unexpected {message}")

    def _number(self, channel: str, watch: _Watch, message: dict[str, object]) -> None:
        number = message["data"]
        assert isinstance(number, dict)
        found = int(number["number"])
        self._ledger.counts["events received"] += 1
        if watch.last is not None and found != watch.last + 1:
            self._ledger.complain(f"{self.name}: {channel} went from {watch.last} to {found}")
        watch.last = found
        offset = message.get("offset")
        watch.offset = offset if isinstance(offset, str) else None
