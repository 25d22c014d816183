"""A browser that keeps its place: it asks for what it missed with `since`, after each break."""

import json
import random

import trio

from broker.store.keys import NewKey
from protocol.offsets import Offset, parse_offset
from tests.faults.process import BrokerChild
from tests.support.ws_client import Closed, Rejected, WsClient

PATIENCE = 600.0


class Browser:
    """One event socket on one channel, whose numbered events it collects.

    While it waits for the answer to a `subscribe` with `since` it ignores events: what follows the answer is complete.

    Attributes:
        stretches: offsets in the order in which they came; a new list begins where the broker could not recover.
        complaints: what must never be.
    """

    def __init__(self, name: str, channel: str, key: NewKey, brokers: list[BrokerChild], dice: random.Random) -> None:
        self.name = name
        self.channel = channel
        self.stretches: list[list[str]] = []
        self.complaints: list[str] = []
        self.recoveries = 0
        self.unrecovered = 0
        self._key = key
        self._brokers = brokers
        self._dice = dice
        self._client: WsClient | None = None
        self._waiting = True

    @property
    def last(self) -> str | None:
        """The offset of its newest event."""
        return self.stretches[-1][-1] if self.stretches and self.stretches[-1] else None

    async def run(self) -> None:
        """Be connected, until cancelled."""
        try:
            while True:
                broker = self._dice.choice(self._brokers)
                try:
                    with trio.fail_after(10):
                        self._client = await WsClient.connect(
                            ("127.0.0.1", broker.port), f"/ws/?token={self._key.api_key}", patience=PATIENCE
                        )
                    await self._serve(self._client)
                except (OSError, Closed, Rejected, trio.BrokenResourceError, trio.TooSlowError) as error:
                    if isinstance(error, Closed) and error.code not in (1006, 1012):
                        self.complaints.append(str(error))
                    await trio.sleep(0.1)
                except trio.ClosedResourceError:
                    pass
                await self.cut()
        finally:
            with trio.CancelScope(shield=True):
                await self.cut()

    async def cut(self) -> None:
        """Lose the connection."""
        if self._client is not None:
            await self._client.kill()

    async def _serve(self, client: WsClient) -> None:
        await self._subscribe(client)
        while True:
            text = await client.receive()
            message = json.loads(text)
            match message["type"]:
                case "ping":
                    await client.send_json(type="pong")
                case "subscribed":
                    self._waiting = False
                    if message.get("recovered"):
                        self.recoveries += 1
                    else:
                        self.unrecovered += bool(self.stretches)
                        self.stretches.append([])
                case "resync_required":
                    if not self._waiting:
                        await self._subscribe(client)
                case "numbered":
                    if not self._waiting:
                        self._take(message)
                case other:
                    self.complaints.append(f"unexpected {other}: {message}")

    async def _subscribe(self, client: WsClient) -> None:
        self._waiting = True
        since = {} if self.last is None else {"since": self.last}
        await client.send_json(type="subscribe", channel=self.channel, **since)

    def _take(self, message: dict[str, str]) -> None:
        offset, last = message["offset"], self.last
        if last is not None and offset_key(offset) <= offset_key(last):
            self.complaints.append(f"{offset} after {last}")
        self.stretches[-1].append(offset)


def offset_key(offset: str) -> Offset:
    """What offsets are compared by."""
    found = parse_offset(offset)
    assert found is not None, offset
    return found
