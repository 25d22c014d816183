"""A session's subscriptions: its commands are carried out and answered in order, each after Redis has confirmed."""

from collections import deque
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial

import redis.exceptions
import trio

from broker.events.catchup import CatchUp
from broker.events.hub import Channel
from broker.events.services import EventServices
from broker.link.errors import LinkDown
from broker.store.key_record import KeyRecord
from broker.wire.peer import Peer
from broker.wire.turn import Turn
from protocol.channels import Grant, grant_for, namespace_of
from protocol.codec import encode
from protocol.codes import CloseCode, ErrorCode
from protocol.events import EventError, Subscribe, Subscribed, Unsubscribe, Unsubscribed
from protocol.frames import text_frame

Command = Subscribe | Unsubscribe | EventError
Rest = Callable[[], Awaitable[None]]

WAITING_PER_SUBSCRIPTION = 2
"""Commands that may wait (the link to Redis is down), for each subscription that a session may hold."""

HISTORY_SECONDS = 10.0
"""How long a subscription that brings `since` waits for the command link to come back."""

RETRY_SECONDS = 0.1
"""Between two tries to read a history while the command link is down."""

ANSWER_BYTES = 2048
"""Room that is left beside a history for `subscribed`, which says that it comes, and for a few pings."""


class Subscriptions:
    """The channels of one session, and the queue of what it has asked for.

    Attributes:
        most: the largest number of channels held at one time, for the closing log line.
    """

    __slots__ = (
        "_accounts", "_commands", "_grant", "_held", "_key", "_namespaces", "_peer", "_room", "_services", "_tasks",
        "most",
    )  # fmt: skip

    def __init__(self, peer: Peer, key: KeyRecord, services: EventServices) -> None:
        self._peer = peer
        self._key = key
        self._services = services
        self._namespaces: tuple[str, ...] = ()
        self._grant = Grant((), frozenset())
        self._commands: deque[Command] | None = None  # those behind one that waits; None while none does
        self._tasks: trio.Nursery | None = None
        self._room: trio.Event | None = None
        self._held: dict[str, Channel] = {}
        self._accounts: dict[str, tuple[int, int]] = {}
        self.most = 0

    def start(self, session: trio.Nursery) -> None:
        """Take commands from now on; what has to wait for Redis does so in a task of this nursery."""
        self._tasks = session

    async def put(self, command: Command) -> None:
        """Carry a command out in its turn; waits while too many wait already, which holds the client back."""
        while (
            self._commands
            and len(self._commands) >= self._services.config.limits.max_subscriptions * WAITING_PER_SUBSCRIPTION
        ):
            self._room = trio.Event()
            await self._room.wait()
        self.take(command)

    def take(self, command: Command) -> None:
        """Give an answer in its place among the others, or carry out a command that there is room for."""
        if self._commands is not None:
            self._commands.append(command)
            return
        rest = self._begin(command)
        if rest is not None:
            assert self._tasks is not None, "start() comes first"
            self._commands = deque()
            self._tasks.start_soon(self._carry_on, rest)

    async def _carry_on(self, rest: Rest) -> None:
        """Do the rest of a command, which has to wait, and then those that have come behind it."""
        await rest()
        turn = Turn()
        while self._commands:
            if turn.is_over():
                await turn.end()
            following = self._begin(self._commands.popleft())
            if following is not None:
                await following()
            if self._room is not None:
                self._room.set()
                self._room = None
        self._commands = None

    def release_all(self) -> None:
        """Give all channels up; the session is over."""
        self._tasks = None
        for channel in self._held.values():
            self._release(channel)
        self._held.clear()

    def _begin(self, command: Command) -> Rest | None:
        """Carry a command out as far as nobody must be waited for; returns what then remains to be done."""
        match command:
            case Subscribe():
                refusal = self._refusal(command.channel)
                if refusal is None:
                    return self._begin_subscription(command)
                self._services.counters.messages_refused[refusal.code] += 1
                self._say(refusal)
            case Unsubscribe(channel=name):
                channel = self._held.pop(name, None)
                if channel is not None:
                    self._release(channel)
                self._say(Unsubscribed(name))
            case EventError():
                self._say(command)
        return None

    def _refusal(self, name: str) -> EventError | None:
        grant = self._granted()
        if not grant.allows(name):
            return EventError(ErrorCode.FORBIDDEN_CHANNEL, _why_forbidden(name, grant), name)
        most = self._services.config.limits.max_subscriptions
        if name not in self._held and len(self._held) >= most:
            return EventError(ErrorCode.TOO_MANY_SUBSCRIPTIONS, f"at most {most} channels for one connection", name)
        return None

    def _granted(self) -> Grant:
        """Return what the key may see of the namespaces that are configured now."""
        namespaces = self._services.config.events.namespaces
        if namespaces is not self._namespaces:
            self._namespaces = namespaces
            self._grant = _shared_grant(self._key.channels, self._key.workflow_id, namespaces)
        return self._grant

    def _begin_subscription(self, command: Subscribe) -> Rest | None:
        name = command.channel
        channel = self._held.get(name)
        if channel is not None and command.since is None:
            self._say(Subscribed(name))
            return None
        is_confirmed = True
        if channel is None:
            channel = self._held[name] = self._services.hub.hold(name)
            self._services.counters.subscriptions += 1
            self.most = max(self.most, len(self._held))
            is_confirmed = channel.confirmation.confirmed
        if is_confirmed and not self._wants_history(command):
            self._go_live(channel, command)
            return None
        return partial(self._finish, command, channel)

    async def _finish(self, command: Subscribe, channel: Channel) -> None:
        """Wait for Redis, then go live."""
        name = command.channel
        if name not in self._accounts:
            try:
                await channel.confirmation.wait()
            except redis.exceptions.RedisError as error:
                del self._held[name]
                self._release(channel)
                self._services.log.error("Redis refused a subscription", channel=name, why=str(error))
                self._say(EventError(ErrorCode.UNAVAILABLE, "this channel cannot be subscribed to now", name))
                return
        if command.since is not None and self._wants_history(command):
            await self._recover(channel, command.since)
        else:
            self._go_live(channel, command)

    def _wants_history(self, command: Subscribe) -> bool:
        return command.since is not None and namespace_of(command.channel) in self._services.config.events.history

    async def _recover(self, channel: Channel, since: str) -> None:
        """Send what was missed after `since`, then go live, without a gap or a double at the seam."""
        catch_up, recovered, missed = await self._read_history(channel, since)
        self._say(Subscribed(channel.name, recovered))
        await self._send_missed(missed)
        last = missed[-1][0] if missed else since
        self._keep_account(channel)
        close_seam = partial(channel.join, self._peer.id, self._peer.outbox)
        held = catch_up.release(last if recovered else "", self._peer.outbox, close_seam)
        if held:
            self._peer.send(b"".join(held), len(held))
        if catch_up.overflowed:
            self._peer.close_soon(CloseCode.OVERLOADED, "too much came during the recovery")

    async def _send_missed(self, missed: list[tuple[str, bytes]]) -> None:
        """Send what the history had, a stretch at a time: there may be thousands, and the channel is held back."""
        turn = Turn()
        frames = []
        for _offset, payload in missed:
            frames.append(text_frame(payload))
            if turn.is_over():
                self._peer.send(b"".join(frames), len(frames))
                frames = []
                await turn.end()
        if frames:
            self._peer.send(b"".join(frames), len(frames))

    async def _read_history(self, channel: Channel, since: str) -> tuple[CatchUp, bool, list[tuple[str, bytes]]]:
        """Hold the channel back, then read what was missed; waits, for a while, for a command link that is down."""
        deadline = trio.current_time() + HISTORY_SECONDS
        outbox = self._peer.outbox
        while True:
            catch_up = CatchUp(outbox.limit)
            try:
                await channel.confirmation.wait()
                async with self._services.recoveries:
                    channel.join(self._peer.id, catch_up)
                    room = max(0, outbox.limit - outbox.pending - ANSWER_BYTES)
                    recovered, missed = await self._services.history(channel.name, since, room)
            except LinkDown:
                if trio.current_time() > deadline:
                    return catch_up, False, []
            except redis.exceptions.RedisError:  # of the history, or of a channel that this user may not hear any more
                channel.join(self._peer.id, catch_up)
                return catch_up, False, []
            else:
                return catch_up, recovered, missed
            await trio.sleep(RETRY_SECONDS)

    def _go_live(self, channel: Channel, command: Subscribe) -> None:
        channel.join(self._peer.id, self._peer.outbox)
        self._keep_account(channel)
        self._say(Subscribed(channel.name, None if command.since is None else False))

    def _keep_account(self, channel: Channel) -> None:
        self._accounts.setdefault(channel.name, (channel.frames, channel.bytes[self._peer.outbox.window]))

    def _release(self, channel: Channel) -> None:
        """Give one channel up; what it has brought goes to the outbox's account, which a fan-out does not keep."""
        outbox = self._peer.outbox
        brought = channel.bytes[outbox.window]
        frames, size = self._accounts.pop(channel.name, (channel.frames, brought))
        outbox.frames += channel.frames - frames
        outbox.bytes += brought - size
        self._services.hub.release(channel, self._peer.id)
        self._services.counters.subscriptions -= 1

    def _say(self, message: Subscribed | Unsubscribed | EventError) -> None:
        self._peer.send(text_frame(encode(message)))


def _why_forbidden(name: str, grant: Grant) -> str:
    """Say why a key may not see a channel: a slip in its namespace is a client's most common mistake."""
    namespace, _, rest = name.partition(":")
    if rest and namespace in grant.namespaces:
        return "this key may not see this channel"
    return f"channels are {', '.join(f'{each}:NAME' for each in sorted(grant.namespaces))}"


@lru_cache(maxsize=1024)
def _shared_grant(globs: tuple[str, ...], workflow_id: str | None, namespaces: tuple[str, ...]) -> Grant:
    """Return one grant for all sessions that may see the same."""
    return grant_for(globs, workflow_id, frozenset(namespaces))
