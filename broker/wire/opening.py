"""The length of a WebSocket connection, as a block of code."""

from types import TracebackType

from broker.wire.limits import PeerLimits
from broker.wire.peer import Peer
from broker.wire.plain import PlainWire, WireBroken
from broker.wire.turnstile import ALONE, Turns
from protocol.codes import CloseCode
from protocol.deflate import Deflate

__all__ = ["open_peer"]


class open_peer:  # noqa: N801  it reads as the function that it stands for
    """Turn a wire into a WebSocket peer for the length of an `async with`; at its end the connection is closed.

    Whoever serves the peer opens a nursery inside, and gives it to `Peer.start`. A class, because a suspended generator
    with its manager would weigh a kilobyte for as long as the connection lives.

    Args:
        wire: bytes that came behind the request head must have been given back with `unread`.
        answer: the 101 response, b"" for a connection that is open already.
        limits: the bounds of this connection.
        remote: the peer's address if a trusted proxy told a better one.
        deflate: what the answer agrees on about compression; see `Outbox.window` for the way out.
        turns: the turnstiles that this connection passes, which others pass too.

    Raises:
        WireBroken: the connection went before the WebSocket was open.
    """

    __slots__ = ("_answer", "_deflate", "_limits", "_peer", "_remote", "_turns", "_wire")

    def __init__(
        self,
        wire: PlainWire,
        answer: bytes,
        limits: PeerLimits,
        *,
        remote: str | None = None,
        deflate: Deflate | None = None,
        turns: Turns = ALONE,
    ) -> None:
        self._wire = wire
        self._answer = answer
        self._limits = limits
        self._remote = remote
        self._deflate = deflate
        self._turns = turns

    async def __aenter__(self) -> Peer:
        self._peer = Peer(self._wire, self._limits, self._remote, self._deflate, self._turns)
        if self._answer:
            self._peer.outbox.begin(self._answer)
            if self._peer.outbox.dead:
                self._wire.close()
                self._peer.untie()
                raise WireBroken("the client went before it was answered")
        return self._peer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            self._peer.close_soon(CloseCode.INTERNAL, "internal error")
        try:
            await self._peer.finish()
        finally:
            self._wire.close()
            self._peer.untie()
