"""One browser's session on the event socket: subscribe, events, heartbeat, and a clear answer to everything else."""

import trio

from broker.events.heartbeat import Heartbeat
from broker.events.services import EventServices
from broker.events.subscriptions import Subscriptions
from broker.observe.connection import log_close, log_open
from broker.store.key_record import KeyRecord
from broker.wire.bucket import TokenBucket
from broker.wire.pausing import Pausing
from broker.wire.peer import Peer
from protocol.codec import decode_event_client
from protocol.codes import CloseCode, ErrorCode
from protocol.errors import ProtocolError
from protocol.events import EventError, Pong, Subscribe, Unsubscribe

RESUBSCRIPTION_SPARE = 50
"""Messages beyond one whole resubscription that a client may send in one go."""

MAX_BAD_MESSAGES = 100
"""Messages in a row that cannot be read end with 4400."""


async def run_event_session(peer: Peer, key: KeyRecord, services: EventServices) -> None:
    """Serve one event socket until it is over. The caller has authenticated it and closes the peer afterwards."""
    session = EventSession(peer, key, services)
    log_open(services.log, "events", connection=peer.id, key_id=key.key_id, remote=peer.remote)
    unwatch = services.keys.watch(key, session.on_key_change)
    try:
        async with trio.open_nursery() as tasks:
            peer.start(tasks)
            session.subscriptions.start(tasks)
            await peer.listen(session.hear)
            tasks.cancel_scope.cancel()
    finally:
        unwatch()
        session.heartbeat.stop()
        session.subscriptions.release_all()
        log_close(
            services.log,
            "events",
            peer,
            connection=peer.id,
            key_id=key.key_id,
            remote=peer.remote,
            messages=session.messages,
            subscriptions=session.subscriptions.most,
        )


class EventSession:
    """The state of one session, and what its client says."""

    __slots__ = (
        "_bad_in_a_row", "_bucket", "_pausing", "_peer", "_services", "heartbeat", "messages", "subscriptions",
    )  # fmt: skip

    def __init__(self, peer: Peer, key: KeyRecord, services: EventServices) -> None:
        self._peer = peer
        self._services = services
        limits = services.config.limits
        self._bucket = TokenBucket(
            limits.max_subscriptions + RESUBSCRIPTION_SPARE, limits.messages_per_second, trio.current_time()
        )
        self._pausing: Pausing | None = None  # most clients never send too much
        self._bad_in_a_row = 0
        self.messages = 0
        self.heartbeat = Heartbeat(peer, services)
        self.subscriptions = Subscriptions(peer, key, services)

    async def hear(self, message: str | bytes) -> None:
        """Take one message of the client."""
        self.messages += 1
        self._services.counters.hear(message)
        await self._hold_to_the_rate()
        try:
            if isinstance(message, bytes):
                raise ProtocolError(ErrorCode.BINARY_MESSAGE, "a message must be text, not binary")
            command = decode_event_client(message)
        except ProtocolError as error:
            await self._refuse(error)
            return
        self._bad_in_a_row = 0
        match command:
            case Pong():
                self.heartbeat.answer()
            case Subscribe() | Unsubscribe():
                await self.subscriptions.put(command)

    def on_key_change(self, record: KeyRecord | None) -> None:
        """Close when the key is no longer good (None); a rotated key keeps its sessions."""
        if record is None:
            self._peer.close_soon(CloseCode.KEY_REVOKED, "key revoked or expired")

    async def _hold_to_the_rate(self) -> None:
        """Pause the reader while the client is above its rate: the kernel then holds the client back."""
        wait = self._bucket.take(trio.current_time())
        if not wait:
            return
        if self._pausing is None:
            self._pausing = Pausing()
        if self._pausing.seconds >= self._services.config.limits.rate_patience:
            self._peer.close_soon(CloseCode.TOO_MANY_MESSAGES, "too many messages")
        await self._pausing.pause(wait)

    async def _refuse(self, error: ProtocolError) -> None:
        self._services.counters.messages_refused[error.code] += 1
        self._bad_in_a_row += 1
        if self._bad_in_a_row >= MAX_BAD_MESSAGES:
            self._peer.close_soon(CloseCode.BAD_MESSAGES, "too many messages that cannot be read")
        else:
            await self.subscriptions.put(EventError(error.code, error.message, error.channel))
