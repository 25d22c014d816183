"""A link: one named connection to the server that is always there again."""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs
import hiredis
import trio
from redis.backoff import EqualJitterBackoff
from redis.exceptions import ReadOnlyError, RedisError

from broker.link.address import Address
from broker.link.command import Arg, pack
from broker.link.connection import DEMOTED, STOPPED, Connection, OnPush
from broker.link.dial import Dialled, dial
from broker.link.errors import AuthenticationFailed, LinkDown, StartupError
from broker.link.reason import reason
from broker.link.slots import CallSlot
from broker.observe import get_logger

_STABLE_AFTER = 10.0
"""Seconds after which a connection counts as good, and the next reconnect starts from the shortest delay."""

_SUBSCRIBING = frozenset({"SUBSCRIBE", "UNSUBSCRIBE", "PSUBSCRIBE", "PUNSUBSCRIBE", "SSUBSCRIBE", "SUNSUBSCRIBE"})


@attrs.frozen
class LinkState:
    """Whether the link is up, since when (unix seconds), and if it is down, why."""

    up: bool
    since: float
    error: str | None = None


class Link:
    """One connection kept alive, with automatic pipelining.

    Parameters in seconds and bytes. `on_push` gets the pushes of one read (64 KiB at the most) as one list and is
    awaited before the next read: its slowness is the backpressure, down to the server's output buffer. An exception
    of it ends `run`. `on_up` and `on_down` are called synchronously at every change; they must not block.

    `name` is what CLIENT LIST shows: printable ASCII without spaces, else ValueError.

    `max_calls` commands may be under way and `max_unsent` bytes may wait to be sent; past that, `call` waits.
    """

    def __init__(
        self,
        address: Address,
        name: str,
        *,
        on_push: OnPush | None = None,
        on_up: Callable[[], None] | None = None,
        on_down: Callable[[LinkDown], None] | None = None,
        max_calls: int = 10_000,
        max_unsent: int = 64 * 1024 * 1024,
        max_reply_bytes: int = 256 * 1024 * 1024,
        connect_timeout: float = 5.0,
        ping_interval: float = 5.0,
        ping_timeout: float = 5.0,
        backoff: tuple[float, float] = (0.05, 2.0),
        refused_backoff: tuple[float, float] = (2.0, 30.0),
    ) -> None:
        if not name or not all("!" <= letter <= "~" for letter in name):
            raise ValueError("the name of a link is printable ASCII without spaces, as CLIENT SETNAME wants it")
        self.address = address
        self.name = name
        self.generation = 0
        """How many connections there have been; it rises with each one."""
        self._on_push = on_push
        self._on_up = on_up
        self._on_down = on_down
        self._max_calls = max_calls
        self._max_unsent = max_unsent
        self._max_reply_bytes = max_reply_bytes
        self._connect_timeout = connect_timeout
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._backoff = EqualJitterBackoff(base=backoff[0], cap=backoff[1])
        self._refused_backoff = EqualJitterBackoff(base=refused_backoff[0], cap=refused_backoff[1])
        self._connection: Connection | None = None
        self._state = LinkState(up=False, since=time.time(), error="not connected yet")
        self._up, self._down = trio.Event(), trio.Event()
        self._waiting_for_room = trio.lowlevel.ParkingLot()
        self._pushes = 0
        self._complaint: str | None = None
        self._log = get_logger().bind(link=name, server=address.describe())

    @property
    def state(self) -> LinkState:
        """Up or down, since when, and why."""
        return self._state

    @property
    def hello(self) -> dict[bytes, object]:
        """What the server said of itself at login (`server`, `version`, `role`, ...); raises LinkDown when down."""
        return self._live().hello

    @property
    def outstanding(self) -> int:
        """Commands that are under way."""
        return self._connection.outstanding if self._connection is not None else 0

    @property
    def pushes(self) -> int:
        """Messages received since the start."""
        return self._pushes + (self._connection.pushes if self._connection is not None else 0)

    async def wait_up(self) -> None:
        """Return when the link is up; for ever, if it never comes up: bring your own timeout."""
        while not self._state.up:
            await self._up.wait()

    async def wait_down(self) -> None:
        """Return when the link is down: at once before its first connection, for ever if it never breaks."""
        while self._state.up:
            await self._down.wait()

    async def call(self, *args: Arg) -> object:
        """Run one command and return its reply in RESP3's shapes, with bytes for strings.

        Raises the `redis.exceptions` of an error reply; LinkDown at once when there is no connection, and when it
        breaks before the reply (the command may or may not have been executed); TypeError for an argument of
        another type; ValueError for SUBSCRIBE and its kind. Has no timeout: a cancelled call leaves its place in the
        pipeline and the link stays in step.
        Blocking commands need a link of their own, as everything behind them waits too.
        """
        if str(args[0]).upper() in _SUBSCRIBING:
            raise ValueError(f"{args[0]!r} is not for call(): use a SubscriptionLink")
        command = pack(*args)
        while (connection := self._live()).outstanding >= self._max_calls or (
            connection.unsent_bytes and connection.unsent_bytes + len(command) > self._max_unsent
        ):
            await self._waiting_for_room.park()
        slot = CallSlot()
        connection.submit(command, slot)
        try:
            return await slot.wait()
        except ReadOnlyError:
            connection.fail(DEMOTED)
            raise

    def leave(self, why: str) -> None:
        """Give the connection up, if there is one; the next one is made as after any other break."""
        if self._connection is not None:
            self._connection.fail(why)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect, and connect again, until cancelled. `started` after the first attempt, whatever came of it.

        Raises AuthenticationFailed or StartupError as long as no connection has ever been made; refusals after
        that are logged once as errors, and tried again at longer intervals.
        """
        failures = 0
        first = True

        def attempted() -> None:
            nonlocal first
            if first:
                first = False
                task_status.started()

        while True:
            backoff = self._backoff
            try:
                with trio.fail_after(self._connect_timeout):
                    dialled = await dial(self.address, self.name)
            except StartupError as error:
                if self.generation == 0:
                    raise
                if isinstance(error, AuthenticationFailed):
                    backoff = self._refused_backoff
                self._unreachable(str(error), loud=True)
            except trio.TooSlowError:
                self._unreachable(f"no answer in {self._connect_timeout:g} s")
            except (OSError, trio.BrokenResourceError, RedisError, hiredis.HiredisError) as error:
                self._unreachable(reason(error))
            else:
                connection = self._connect(dialled)
                attempted()
                up_since = trio.current_time()
                try:
                    await connection.run()
                finally:
                    self._pushes += connection.pushes
                    self._connection = None
                if trio.current_time() - up_since >= _STABLE_AFTER:
                    failures = 0
            attempted()
            await trio.sleep(backoff.compute(failures))
            failures += 1

    def _live(self) -> Connection:
        if self._connection is None or self._connection.error is not None:
            raise LinkDown(f"the link {self.name!r} to {self.address.describe()} is down: {self._state.error}")
        return self._connection

    def _connect(self, dialled: Dialled) -> Connection:
        self._connection = connection = Connection(
            dialled,
            on_push=self._on_push,
            on_failure=self._broke,
            flush=self._collect,
            ping_interval=self._ping_interval,
            ping_timeout=self._ping_timeout,
            max_reply_bytes=self._max_reply_bytes,
        )
        connection.on_settled = self._make_room
        self.generation += 1
        self._state = LinkState(up=True, since=time.time())
        self._complaint = None
        self._log.info("link up", generation=self.generation)
        self._restore(connection)
        self._down = trio.Event()
        self._up.set()
        if self._on_up is not None:
            self._on_up()
        return connection

    def _broke(self, error: LinkDown) -> None:
        self._state = LinkState(up=False, since=time.time(), error=str(error))
        self._up = trio.Event()
        self._down.set()
        self._waiting_for_room.unpark_all()
        if str(error) != STOPPED:
            self._log.warning("link down", reason=str(error))
        self._lost()
        if self._on_down is not None:
            self._on_down(error)

    def _unreachable(self, reason: str, *, loud: bool = False) -> None:
        """Say each reason once per outage: the loop goes round every two seconds."""
        self._state = attrs.evolve(self._state, error=reason)
        if reason != self._complaint:
            self._complaint = reason
            (self._log.error if loud else self._log.warning)("link cannot connect", reason=reason)

    def _make_room(self) -> None:
        if self._waiting_for_room:
            self._waiting_for_room.unpark()

    def _restore(self, connection: Connection) -> None:
        """Take up a new connection, before anybody else knows of it."""

    def _lost(self) -> None:
        """Take note that the connection is gone."""

    def _collect(self, connection: Connection) -> None:
        """Submit what was worth collecting; the writer is about to send."""
