"""One browser's session on the event socket: subscribe, events, heartbeat, and a clear answer to everything else."""

import math
import random

import trio

from broker.events.services import EventServices
from broker.events.subscriptions import Subscriptions
from broker.observe.connection import log_close, log_open
from broker.store.key_record import KeyRecord
from broker.wire.bucket import TokenBucket
from broker.wire.doorbell import Doorbell
from broker.wire.peer import Peer, PeerClosed
from protocol.codec import decode_event_client, encode
from protocol.codes import CloseCode, ErrorCode
from protocol.errors import ProtocolError
from protocol.events import EventError, Ping, Pong, Subscribe, Unsubscribe
from protocol.frames import text_frame

PING = text_frame(encode(Ping()))

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
            tasks.start_soon(session.beat)
            tasks.start_soon(session.subscriptions.run)
            await session.read()
            tasks.cancel_scope.cancel()
    finally:
        unwatch()
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
    """The state of one session; each method that loops is the body of one of its tasks."""

    __slots__ = (
        "_answered", "_bad_in_a_row", "_bucket", "_pausing_since", "_peer", "_pulse", "_services", "messages",
        "subscriptions",
    )  # fmt: skip

    def __init__(self, peer: Peer, key: KeyRecord, services: EventServices) -> None:
        self._peer = peer
        self._services = services
        self._pulse = Doorbell()
        self._answered = False
        limits = services.config.limits
        self._bucket = TokenBucket(
            limits.max_subscriptions + RESUBSCRIPTION_SPARE, limits.messages_per_second, trio.current_time()
        )
        self._pausing_since = math.inf
        self._bad_in_a_row = 0
        self.messages = 0
        self.subscriptions = Subscriptions(peer, key, services)

    async def read(self) -> None:
        """Take the client's messages in order until the connection ends."""
        while True:
            try:
                message = await self._peer.receive()
            except PeerClosed:
                return
            self.messages += 1
            self._services.counters.messages += 1
            await self._hold_to_the_rate()
            try:
                if isinstance(message, bytes):
                    raise ProtocolError(ErrorCode.BINARY_MESSAGE, "messages are text")
                command = decode_event_client(message)
            except ProtocolError as error:
                self._refuse(error)
                continue
            self._bad_in_a_row = 0
            match command:
                case Pong():
                    self._answered = True
                    self._pulse.ring()
                case Subscribe() | Unsubscribe():
                    await self.subscriptions.put(command)

    async def beat(self) -> None:
        """Ping the client; one that leaves a ping unanswered is closed with 4408."""
        alarms = self._services.alarms
        share = random.uniform(0.5, 1)  # of the first interval: sessions that came together are not asked together
        while True:
            events = self._services.config.events
            due = alarms.set(self._pulse, events.ping_interval * share)
            share = 1.0
            while trio.current_time() < due:  # the bell also rings for alarms that are over, and for pongs
                await self._pulse.wait()
            self._answered = False
            self._peer.send(PING)
            late = alarms.set(self._pulse, events.pong_timeout)
            while not self._answered and trio.current_time() < late:
                await self._pulse.wait()
            if not self._answered:
                self._services.counters.heartbeats_missed += 1
                self._peer.close_soon(CloseCode.HEARTBEAT_MISSED, "no pong")
                await trio.sleep_forever()

    def on_key_change(self, record: KeyRecord | None) -> None:
        """Close when the key is no longer good; a rotated key keeps its sessions."""
        if record is None or record.status != "active":
            self._peer.close_soon(CloseCode.KEY_REVOKED, "key revoked or expired")

    async def _hold_to_the_rate(self) -> None:
        """Pause the reader while the client is above its rate: the kernel then holds the client back."""
        now = trio.current_time()
        wait = self._bucket.take(now)
        if self._bucket.rested:
            self._pausing_since = math.inf
        if not wait:
            return
        self._pausing_since = min(self._pausing_since, now)
        if now - self._pausing_since >= self._services.config.limits.rate_patience:
            self._peer.close_soon(CloseCode.TOO_MANY_MESSAGES, "too many messages")
        await trio.sleep(wait)

    def _refuse(self, error: ProtocolError) -> None:
        self._services.counters.messages_refused[error.code] += 1
        self._bad_in_a_row += 1
        if self._bad_in_a_row >= MAX_BAD_MESSAGES:
            self._peer.close_soon(CloseCode.BAD_MESSAGES, "too many messages that cannot be read")
        else:
            self.subscriptions.put_error(EventError(error.code, error.message, error.channel))
