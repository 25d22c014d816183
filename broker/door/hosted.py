"""A WebSocket as the door counts it: among the sessions while it is open, and by how it ended."""

from types import TracebackType

from broker.door.state import DoorState, Kind
from broker.wire.opening import open_peer
from broker.wire.peer import Peer
from broker.wire.plain import PlainWire
from protocol.deflate import Deflate

__all__ = ["hosted_peer"]


class hosted_peer:  # noqa: N801  it reads as the function that it stands for
    """Open a peer for the length of an `async with`, as `open_peer` does, with the limits and turns of its kind.

    Args:
        wire, answer, remote, deflate: see `open_peer`.
        kind: of the session that follows.
        state: what counts it.
        session: whether there is one; a peer that is only told why there is none counts by its end alone.

    Raises:
        WireBroken: the connection went before the WebSocket was open.
    """

    __slots__ = ("_kind", "_opening", "_peer", "_session", "_state")

    def __init__(
        self,
        wire: PlainWire,
        answer: bytes,
        kind: Kind,
        state: DoorState,
        *,
        remote: str,
        deflate: Deflate | None = None,
        session: bool = True,
    ) -> None:
        self._kind = kind
        self._state = state
        self._session = session
        limits, turns = state.peer_limits[kind], state.turns[kind]
        self._opening = open_peer(wire, answer, limits, remote=remote, deflate=deflate, turns=turns)

    async def __aenter__(self) -> Peer:
        self._peer = await self._opening.__aenter__()
        if self._session:
            self._state.enter(self._kind, self._peer)
        return self._peer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session:
            self._state.leave(self._kind, self._peer)
        try:
            await self._opening.__aexit__(kind, error, traceback)
        finally:
            self._state.settle(self._peer)
