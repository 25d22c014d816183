"""What an SDK says: few things, each checked, none of them able to end the session by accident."""

import trio

from broker.control.member import Member
from broker.control.services import ControlServices
from broker.wire.bucket import TokenBucket
from protocol.codec import decode_control_client
from protocol.codes import CloseCode, ErrorCode
from protocol.control import Ack, Ping
from protocol.errors import ProtocolError
from protocol.frames import text_frame
from protocol.signing import verify_ack

MAX_BAD_MESSAGES = 100
"""Messages in a row that cannot be understood end with 4400; one that can be begins the count anew."""

PONG = text_frame(b'{"type":"pong"}')

OPENING_SECONDS = 2.0
"""How long what a client says at once waits, so that `initial_state` comes before any answer; then it is answered."""

BURST_SECONDS = 2.0
"""So many seconds' worth of messages may come at once."""


class Reader:
    """Takes the messages of one client."""

    def __init__(self, member: Member, services: ControlServices) -> None:
        self._member = member
        self._services = services
        rate = services.config.limits.messages_per_second
        self._bucket = TokenBucket(max(1.0, rate * BURST_SECONDS), rate, trio.current_time())
        self._bad = 0
        self._opening_ends = trio.current_time() + OPENING_SECONDS

    async def hear(self, message: str | bytes) -> None:
        """Handle one message; waits while the client sends too many."""
        self._services.counters.hear(message)
        if not self._member.begun.is_set():
            with trio.move_on_at(self._opening_ends):
                await self._member.begun.wait()
        try:
            if not handle(self._member, self._services, message):
                await self._hold_to_the_rate()
            self._bad = 0
        except ProtocolError as error:
            self._bad += 1
            self._member.refuse(error.code, error.message)
            if self._bad >= MAX_BAD_MESSAGES:
                self._member.peer.close_soon(CloseCode.BAD_MESSAGES, "too many messages that could not be understood")
            await self._hold_to_the_rate()

    async def _hold_to_the_rate(self) -> None:
        """Wait while the client is above its rate: its own socket fills up meanwhile."""
        wait = self._bucket.take(trio.current_time())
        if wait:
            await trio.sleep(wait)


def handle(member: Member, services: ControlServices, text: str | bytes) -> bool:
    """Handle one message; tell whether it was an ack that was waited for, which costs a client nothing.

    Raises:
        ProtocolError: it cannot be understood.
    """
    if isinstance(text, bytes):
        raise ProtocolError(ErrorCode.BINARY_MESSAGE, "a message must be text, not binary")
    message = decode_control_client(text)
    if isinstance(message, Ack):
        return _acknowledge(member, services, message)
    if isinstance(message, Ping) and member.peer.pending_bytes == 0:
        member.peer.send(PONG)
    return False


def _acknowledge(member: Member, services: ControlServices, ack: Ack) -> bool:
    now = services.clock()
    member.clock_skew = ack.received_at - now
    try:
        secret = verify_ack(ack, member.api_key, member.verifying_secrets())
    except ProtocolError as error:
        # Not held against the session: an SDK that missed a rotation would be closed, and never come back for a kill.
        services.counters.acks_refused[error.code] += 1
        member.wrong_signatures += 1
        member.refuse(error.code, error.message)
        return False
    if secret is not None and secret != member.secret and secret == member.record.secret_key:
        member.sign_with(secret)
    pending = member.pending.confirm(ack.message_id)
    if pending is None:
        # not worth an error: a message that was sent twice is acknowledged twice
        services.counters.acks_refused[ErrorCode.UNKNOWN_MESSAGE_ID] += 1
        return False
    member.acked += 1
    member.last_ack = now
    services.counters.acks += 1
    services.counters.ack_latency.observe(max(0.0, now - pending.publication.ms / 1000))
    if pending.addressee:
        services.receipts.acknowledged(member, pending, ack.received_at)
    services.presence.put(member)
    return True
