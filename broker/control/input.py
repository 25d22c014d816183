"""Control input: what any program may publish, claimed and applied by one script call, each exactly once."""

import itertools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import trio
from redis.exceptions import RedisError

from broker.control.horizon import Horizon
from broker.control.lane import Item, Lane
from broker.link.errors import LinkDown
from broker.link.subscriptions import SubscriptionLink
from broker.observe import Counters, Repeated
from broker.store.applied import Applied, Status
from broker.store.apply import Claimant, claim
from broker.store.drive import Call, run
from broker.store.layout import Layout
from broker.store.limits import LogLimits
from broker.store.request import Operation
from protocol.codec import decode_control_input, tag_of
from protocol.codes import ErrorCode
from protocol.control import ControlInput
from protocol.errors import ProtocolError
from protocol.ids import check_id

MAX_INPUT_BYTES = 65536
"""The longest control message that is applied."""

MAX_WAITING = 10_000
"""Publications that may wait to be applied; past that the subscription link is not read, and Redis holds them."""

RETRY_SECONDS = (0.05, 1.0)
"""The first and the longest pause between two tries to apply a publication."""


class InputDesk:
    """Takes the publications of every `control:<org>` channel, in order for each organization.

    Args:
        layout: names in the store.
        call: the command link's `call`.
        link: the control plane's subscription link.
        counters: `control_inputs`, `control_inputs_refused` and `control_applied` are raised here.
        log: structlog.
        broker_id: names this broker in claims.
        limits: bounds of the log, for the script.
        present: tells whether an organization has, or just had, sessions here.
    """

    def __init__(
        self,
        *,
        layout: Layout,
        call: Call,
        link: SubscriptionLink,
        counters: Counters,
        log: Any,
        broker_id: str,
        limits: LogLimits,
        present: Callable[[str], bool],
    ) -> None:
        self._layout = layout
        self._call = call
        self._link = link
        self._counters = counters
        self._log = Repeated(log)
        self._broker_id = broker_id
        self._limits = limits
        self._present = present
        self._horizon = Horizon(link)
        self._serials = itertools.count(1)
        self._waiting = trio.Semaphore(MAX_WAITING)
        self._lanes: dict[str, Lane] = {}  # an organization is here while a task works on it
        self._emptied = trio.lowlevel.ParkingLot()
        self._nursery: trio.Nursery | None = None

    @property
    def waiting(self) -> int:
        """Publications that were heard and are not applied yet."""
        return MAX_WAITING - self._waiting.value

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the tasks that apply publications, until cancelled."""
        async with trio.open_nursery() as lanes:
            self._nursery = lanes
            lanes.start_soon(self._horizon.run)
            task_status.started()
            await trio.sleep_forever()

    async def finish(self) -> None:
        """Hear nothing more, and return when all that was heard is applied; never, while the store is away.

        Who publishes after that learns from PUBLISH that nobody has heard it.
        """
        self._link.punsubscribe(self._layout.control_pattern().encode())
        with suppress(RedisError):  # a link that is down hears nothing, and will not want the pattern again
            # The first PING may go before the PUNSUBSCRIBE, the second goes behind; so does its answer.
            await self._link.call("PING")
            await self._link.call("PING")
        while self._lanes:
            await self._emptied.park()

    async def accept(self, channel: bytes, payload: bytes) -> None:
        """Take one publication; waits only when very many are waiting already."""
        self._counters.control_inputs += 1
        heard_ms, after_ms = self._link.server_ms(), self._horizon.ms
        claimant = Claimant(self._broker_id, self._link.generation, self._link.subscribed_at)
        try:
            organization_id = self._organization_of(channel)
            message = _decode(organization_id, payload)
        except ProtocolError as error:
            self._refuse(error.code, channel=channel, reason=error.message)
            return
        await self._waiting.acquire()
        item = Item(message, payload, claimant, next(self._serials), heard_ms, after_ms, trio.current_time())
        lane = self._lanes.get(organization_id)
        if lane is None:
            assert self._nursery is not None, "input is accepted while run() runs"
            lane = self._lanes[organization_id] = Lane(self._limits.retention)
            self._nursery.start_soon(self._work, organization_id, lane)
        lane.append(item)

    async def _work(self, organization_id: str, lane: Lane) -> None:
        """Apply what waits, each as often as it takes: its serial tells the script that it is the same one."""
        delay = RETRY_SECONDS[0]
        while lane:
            item = lane.head
            try:
                applied = await run(self._call, self._claim(organization_id, item))
            except LinkDown:
                lane.unreachable()
            except (RedisError, ProtocolError, ValueError, TypeError) as error:  # the latter: of answers without sense
                self._log.error("store", "the store refuses control input", org=organization_id, error=error)
                for each in lane.refuse(trio.current_time()):
                    self._give_up("store_error", organization_id, each, str(error))
                for each in lane.let_pass():
                    self._give_up("overtaken", organization_id, each, "a newer Killed or Paused went first")
                if not lane or (lane.is_fresh and not item.urgent):
                    continue
                if lane.is_fresh:
                    delay = RETRY_SECONDS[0]
            else:
                self._note(organization_id, item.message, applied)
                lane.settle()
                self._waiting.release()
                delay = RETRY_SECONDS[0]
                continue
            await lane.pause(delay)
            delay = min(RETRY_SECONDS[1], delay * 2)
        del self._lanes[organization_id]
        if not self._lanes:
            self._emptied.unpark_all()

    def _claim(self, organization_id: str, item: Item) -> Operation[Applied]:
        return claim(
            self._layout,
            organization_id,
            item.message,
            item.payload,
            item.claimant,
            serial=item.serial,
            heard_ms=item.heard_ms,
            after_ms=item.after_ms,
            vouched=self._present(organization_id),
            limits=self._limits,
        )

    def _give_up(self, code: str, organization_id: str, item: Item, reason: str) -> None:
        self._waiting.release()
        self._refuse(code, org=organization_id, type=tag_of(item.message), workflow=item.workflow_id, reason=reason)

    def _note(self, organization_id: str, message: ControlInput, applied: Applied) -> None:
        self._counters.control_applied[applied.status.value] += 1
        if applied.status in (Status.TERMINAL, Status.STALE, Status.LATE, Status.NO_KEY):
            self._log.warning(
                f"{applied.status} {organization_id}",
                "control input not applied",
                org=organization_id,
                type=tag_of(message),
                workflow=getattr(message, "workflow_id", None),
                why=applied.status.value,
            )

    def _organization_of(self, channel: bytes) -> str:
        name = self._layout.organization_of_control(channel.decode("utf-8", "replace"))
        return check_id(name, "the organization in the channel's name")

    def _refuse(self, code: str, **fields: object) -> None:
        self._counters.control_inputs_refused[code] += 1
        self._log.warning(code, "control input refused", code=code, **fields)


def _decode(organization_id: str, payload: bytes) -> ControlInput:
    if len(payload) > MAX_INPUT_BYTES:
        raise ProtocolError(ErrorCode.TOO_BIG, f"control input has at most {MAX_INPUT_BYTES} bytes")
    message = decode_control_input(payload)
    if message.organization_id is not None and message.organization_id != organization_id:
        raise ProtocolError(
            ErrorCode.ORGANIZATION_MISMATCH, f"organization_id is {message.organization_id}, the channel another's"
        )
    return message
