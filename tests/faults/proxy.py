"""A TCP proxy between a broker and the store, which can cut, refuse and stall each of the broker's links."""

from collections.abc import Iterable
from functools import partial

import attrs
import trio

LINKS = ("commands", "control", "events")


@attrs.define(eq=False)
class _Pair:
    """One connection of the broker and the one that it leads to."""

    broker: trio.SocketStream
    store: trio.SocketStream
    link: str = ""

    async def close(self) -> None:
        for stream in (self.broker, self.store):
            await trio.aclose_forcefully(stream)


class Proxy:
    """Passes bytes on between whoever connects to `port` and the store.

    Links are told apart by the name that they give themselves at login.
    """

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self._target = target
        self._pairs: dict[_Pair, None] = {}
        self._refused: frozenset[str] = frozenset()
        self._open = {link: trio.Event() for link in ("", *LINKS)}
        for gate in self._open.values():
            gate.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and pass on, until cancelled."""
        await trio.serve_tcp(self._serve, self.port, host="127.0.0.1", task_status=_Started(task_status))

    async def cut(self, links: Iterable[str] = LINKS) -> None:
        """Close the connections of these links."""
        for pair in [pair for pair in self._pairs if pair.link in links]:
            await pair.close()

    def refuse(self, links: Iterable[str]) -> None:
        """Close new connections of these links, and of no others, at their login."""
        self._refused = frozenset(links)

    def stall(self, links: Iterable[str]) -> None:
        """Hold back all that these links carry, both ways, also on connections that they open anew."""
        for link in links:
            if self._open[link].is_set():
                self._open[link] = trio.Event()

    def resume(self, links: Iterable[str] = LINKS) -> None:
        """Let go of what was held back."""
        for link in links:
            self._open[link].set()

    async def _serve(self, broker: trio.SocketStream) -> None:
        try:
            store = await trio.open_tcp_stream("127.0.0.1", self._target)
        except OSError:
            return
        pair = _Pair(broker, store)
        self._pairs[pair] = None
        try:
            async with trio.open_nursery() as both_ways:
                both_ways.start_soon(partial(self._pass_on, pair, broker, store, both_ways.cancel_scope))
                await self._pass_on(pair, store, broker, both_ways.cancel_scope)
        finally:
            del self._pairs[pair]
            with trio.CancelScope(shield=True):
                await pair.close()

    async def _pass_on(
        self, pair: _Pair, source: trio.SocketStream, sink: trio.SocketStream, over: trio.CancelScope
    ) -> None:
        try:
            while data := await source.receive_some(65536):
                if not pair.link:
                    pair.link = next((link for link in LINKS if b"signalbox-" + link.encode() in data), "")
                if pair.link in self._refused:
                    break
                while not self._open[pair.link].is_set():
                    await self._open[pair.link].wait()
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        over.cancel()


class _Started(trio.TaskStatus[list[trio.SocketListener]]):
    """Hands on that a server has started, without its listeners."""

    def __init__(self, status: trio.TaskStatus[None]) -> None:
        self._status = status

    def started(self, value: list[trio.SocketListener] | None = None) -> None:
        self._status.started()
