"""One live connection: a reader, a writer and a pinger around a pipeline of reply slots."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

import hiredis
import trio

from broker.link.command import pack
from broker.link.dial import Dialled
from broker.link.errors import LinkDown
from broker.link.parser import NOT_YET
from broker.link.slots import OutOfStep, PingSlot, Slot

OnPush = Callable[[list[list[bytes]]], Awaitable[None]]

_MESSAGES = {b"message": 3, b"pmessage": 4, b"smessage": 3}
"""Kinds of messages, and of how many words each of them is made."""

_CONFIRMATIONS = frozenset({b"subscribe", b"unsubscribe", b"psubscribe", b"punsubscribe"})
_PING = pack("HELLO")

STOPPED = "the link was stopped"
"""Why a connection ends when we end it."""

DEMOTED = "the server has become a read-only replica"
"""Why a connection ends after a failover: the name of the server may lead to another one by now."""


class Connection:
    """From a finished login to the first error, whichever task meets it; it is never used again after that.

    `flush` is called whenever the writer is about to send, and may `submit` commands that were worth collecting.
    """

    def __init__(
        self,
        dialled: Dialled,
        *,
        on_push: OnPush | None,
        on_failure: Callable[[LinkDown], None],
        flush: Callable[[Connection], None],
        ping_interval: float,
        ping_timeout: float,
        max_reply_bytes: int,
    ) -> None:
        self.hello = dialled.hello
        self.error: LinkDown | None = None
        self.unsent_bytes = 0
        self.pushes = 0
        self._stream = dialled.stream
        self._read_some = dialled.read
        self._close = dialled.close
        self._parser = dialled.parser
        self._on_push = on_push
        self._on_failure = on_failure
        self._flush = flush
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._max_reply_bytes = max_reply_bytes
        self._slots: deque[Slot] = deque()
        self._unsent: list[bytes] = []
        self._something_to_send = trio.Event()
        self._reads = 0
        self._handling = False
        self.on_settled: Callable[[], None] | None = None

    @property
    def outstanding(self) -> int:
        """Commands whose reply has not come, those of cancelled calls included."""
        return len(self._slots)

    def submit(self, command: bytes, slot: Slot) -> None:
        """Queue a packed command; its reply goes to `slot`. The writer sends all that is queued at its next turn."""
        if self.error is not None:
            raise LinkDown(str(self.error))
        self._slots.append(slot)
        self._unsent.append(command)
        self.unsent_bytes += len(command)
        self._something_to_send.set()

    def wake_writer(self) -> None:
        """Have `flush` called soon."""
        self._something_to_send.set()

    def fail(self, reason: str) -> None:
        """End the connection: every slot is told, and the tasks of `run` come to an end. Only the first reason counts.

        The reader is not cancelled but loses its socket, so that a batch which has been received is also handled.
        """
        if self.error is not None:
            return
        self.error = LinkDown(reason)
        self._close()
        slots, self._slots = self._slots, deque()
        for slot in slots:
            slot.lost(self.error)
        self._unsent.clear()
        self._on_failure(self.error)

    async def run(self) -> None:
        """Serve the connection until it fails; returns then, with `error` set."""
        try:
            async with trio.open_nursery() as connection:
                connection.start_soon(self._write)
                connection.start_soon(self._ping)
                connection.start_soon(self._read, connection.cancel_scope)  # fewer frames to wake through
        finally:
            self.fail(STOPPED)

    async def _read(self, tasks: trio.CancelScope) -> None:
        """Read until the end, and end the other tasks then."""
        try:
            if self._parser.has_data():  # came together with the last answer of the login
                await self._take()
            while data := await self._read_some():
                self._parser.feed(data)
                self._reads += 1
                await self._take()
            self.fail("the server closed the connection")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.fail(f"the connection broke: {error.__cause__ or error}")
        except (OutOfStep, hiredis.HiredisError) as error:
            self.fail(f"the server's answers make no sense: {error}")
        tasks.cancel()

    async def _take(self) -> None:
        """Hand out everything that has arrived whole; the messages between two answers are one batch."""
        gets = self._parser.gets
        batch: list[list[bytes]] = []
        while True:
            try:
                reply = gets()
            except TypeError as error:  # a map with a list for a key
                raise OutOfStep(str(error)) from error
            if reply is NOT_YET:
                if self._parser.more():
                    continue
                break
            if type(reply) is hiredis.PushNotification:
                try:
                    kind = reply[0]
                    words = _MESSAGES.get(kind)
                    if words is not None:
                        if len(reply) != words or type(reply[-1]) is not bytes or type(reply[-2]) is not bytes:
                            raise OutOfStep(f"a {kind!r} that is none")
                        batch.append(reply)
                        continue
                    if kind not in _CONFIRMATIONS:
                        continue
                except (TypeError, IndexError) as error:  # an empty push, or a list in place of its kind
                    raise OutOfStep(str(error)) from error
            else:
                kind = None
            if batch:
                await self._hand_over(batch)
                batch = []
            if kind is None:
                self._settle(reply)
            else:
                self._confirm(reply)
        if batch:
            await self._hand_over(batch)
        if self._parser.waiting_bytes() > self._max_reply_bytes:
            raise OutOfStep(f"a reply or message of more than {self._max_reply_bytes} bytes")

    async def _hand_over(self, batch: list[list[bytes]]) -> None:
        self.pushes += len(batch)
        if self._on_push is not None:
            self._handling = True
            await self._on_push(batch)
            self._handling = False

    def _settle(self, reply: object) -> None:
        if not self._slots:
            if self.error is not None:
                return  # failed while a batch was being handled
            raise OutOfStep("a reply to nothing")
        self._slots.popleft().settle(reply)
        if self.on_settled is not None:
            self.on_settled()

    def _confirm(self, push: list[bytes]) -> None:
        if not self._slots:
            if self.error is not None:
                return
            raise OutOfStep(f"a {push[0]!r} confirmation of nothing")
        if self._slots[0].confirm(push):
            self._slots.popleft()
            if self.on_settled is not None:
                self.on_settled()

    async def _write(self) -> None:
        try:
            while True:
                await self._something_to_send.wait()
                self._something_to_send = trio.Event()
                if self.error is not None:
                    return
                self._flush(self)
                if not self._unsent:
                    continue
                chunk = b"".join(self._unsent)
                self._unsent.clear()
                await self._stream.send_all(chunk)
                self.unsent_bytes -= len(chunk)
                if self.on_settled is not None:
                    self.on_settled()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.fail(f"the connection broke: {error.__cause__ or error}")

    async def _ping(self) -> None:
        """Ask in each interval for a sign of life, and whether it is still a primary.

        A link that only listens would notice no other way that nobody publishes there any more; also one that hears
        something all the time, if only the time of day.
        While a batch is being handled nothing is read, by us and not by the server: that time is not counted.
        """
        while True:
            await trio.sleep(self._ping_interval)
            if self._handling:
                continue
            slot = PingSlot()
            try:
                self.submit(_PING, slot)
            except LinkDown:
                return
            reads = self._reads
            while not slot.answered.is_set():
                with trio.move_on_after(self._ping_timeout):
                    await slot.answered.wait()
                    break
                if self._reads == reads and not self._handling:
                    self.fail(f"the server gave no sign of life for {self._ping_interval + self._ping_timeout:g} s")
                    return
                reads = self._reads
            if slot.is_replica:
                self.fail(DEMOTED)
                return
