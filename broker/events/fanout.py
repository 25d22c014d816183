"""Event fan-out: one batch off the link in, one joined write per subscriber and channel out."""

import time
from collections.abc import Iterable, Sequence

import trio

from broker.events.hub import REFUSED, Channel, Hub
from broker.events.pace import Pace
from broker.events.packing import Packer
from broker.events.rate import PublicationRate
from broker.events.roster import Roster
from broker.observe.counters import Counters
from broker.observe.log import get_logger
from broker.observe.repeated import Repeated
from broker.wire.doorbell import Doorbell
from broker.wire.ring import ENTRIES, Ring
from broker.wire.turn import Turn
from protocol.codec import encode
from protocol.codes import ErrorCode
from protocol.errors import ProtocolError
from protocol.events import ResyncRequired, check_event
from protocol.frames import text_frame

JOIN_BYTES = 262144
"""Frames of one channel are joined up to this size; larger publications go by themselves."""

BREAK = "the broker was cut off from Redis"

REFUSAL = "Redis does not let the broker hear this channel"

REFUSED_SECONDS = 5.0
"""Between two tries to subscribe to the channels that Redis refuses: there may be thousands."""

FLOOD = "more was published than is allowed for a channel"

SLICE = ENTRIES
"""Subscribers written to together, if what they get is small: for a millisecond or so."""

SLICE_BYTES = 1 << 20
"""What is written together otherwise: between two slices the clock is looked at."""


class FanOut:
    """Takes the event link's batches. A publication is checked and framed once; the same bytes go to everybody.

    Args:
        hub: who is subscribed.
        counters: are raised.
        max_publication_bytes: the longest publication that is delivered.
        publications_per_second: the most of one channel.
        ring: writes to many sockets at once, and is closed when `run` ends; None: each gets a system call of its own.
        ring_from: sockets on a roster from which on it is used; see docs/performance.md for what is cheaper.
    """

    def __init__(
        self,
        hub: Hub,
        counters: Counters,
        max_publication_bytes: int,
        publications_per_second: float = 20_000.0,
        ring: Ring | None = None,
        ring_from: int = 1,
    ) -> None:
        self._hub = hub
        self.ring = ring
        self.ring_from = ring_from
        self._has_ring = ring is not None
        self._counters = counters
        self._broken = Doorbell()
        self._refused = Doorbell()
        self._telling = trio.Lock()
        self._pace = Pace(time.perf_counter())
        self.rate = PublicationRate(publications_per_second)
        self.max_publication_bytes = max_publication_bytes
        self._packer = Packer(counters)
        self._complaints = Repeated(get_logger(part="events"))

    async def on_batch(self, batch: Sequence[Sequence[bytes]]) -> None:
        """Deliver the messages of one read. The link awaits this before it reads again: that is the backpressure.

        Args:
            batch: RESP3 pushes, `[b"message", channel, payload]`; others are ignored.
        """
        began = time.perf_counter()
        turn = Turn()
        frames_out = writes = 0
        for name, payloads in _by_channel(batch):
            channel = self._hub.channels.get(name)
            if channel is None:
                continue
            if channel.has_gap:  # whoever asks for what came after his last event must not have seen a later one
                await self._tell_of_gap(channel, turn)
            if self.rate.is_cut(channel):
                self._drop(channel.name, len(payloads))
                continue
            if self.rate.is_due(channel):
                await self._tell_of_flood(channel, turn)
            admitted = self.rate.admit(channel, len(payloads), began)
            if admitted < len(payloads):
                self._drop(channel.name, len(payloads) - admitted)
                del payloads[admitted:]
            frames = self._frames(channel.name, payloads)
            if frames:
                self._counters.publications += len(frames)
                for data, count in joined(frames):
                    await self._deliver(channel, data, count, turn)
                    writes += 1
                frames_out += len(frames)
                self._counters.delivery_latency.observe(time.perf_counter() - began, len(frames))
        if writes:
            now = time.perf_counter()
            rest = self._pace.rest_after(now - began, now, frames_out / writes)
            if rest:
                await trio.sleep(rest)

    def note_break(self) -> None:
        """Note that the link was broken and is back: `run` tells the subscribers."""
        self._broken.ring()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell subscribers of breaks, of refusals and of what was dropped, until cancelled."""
        try:
            async with trio.open_nursery() as tellers:
                tellers.start_soon(self._tell_of_drops)
                tellers.start_soon(self._ask_again)
                task_status.started()
                while True:
                    await self._broken.wait()
                    turn = Turn()
                    for channel in list(self._hub.channels.values()):
                        await self._tell_of_gap(channel, turn)
                        if channel.is_refused:
                            self._refused.ring()
        finally:
            if self.ring is not None:
                self._has_ring = False
                self.ring.close()

    def _give_up_ring(self) -> None:
        """Go on with a system call for each browser; the ring is kept, since the kernel may still read its memory."""
        if self._has_ring:
            self._has_ring = False
            get_logger(part="events").error("io_uring is given up: the kernel did not do at once what it was asked to")

    async def _ask_again(self) -> None:
        """Ask again for what Redis has refused after a break, until it does not: its subscribers are still there."""
        while True:
            await self._refused.wait()
            refused = [channel for channel in self._hub.channels.values() if channel.is_refused]
            if refused:
                why, channel = str(refused[0].confirmation.error), refused[0].name
                self._complaints.error(
                    "refused", "Redis refused a subscription", channel=channel, channels=len(refused), why=why
                )
            await trio.sleep(REFUSED_SECONDS)
            turn = Turn()
            for each in refused:
                if each.is_refused and each.holders:
                    self._hub.hold_again(each).when_settled(self._on_asked)
                if turn.is_over():
                    await turn.end()

    def _on_asked(self, error: Exception | None) -> None:
        """Have subscribers told what they missed meanwhile; or ask once more."""
        (self._broken if error is None else self._refused).ring()

    async def _tell_of_drops(self) -> None:
        while True:
            turn = Turn()
            for channel in await self.rate.next_to_tell():
                await self._tell_of_flood(channel, turn)

    async def _tell_of_flood(self, channel: Channel, turn: Turn) -> None:
        """Tell every subscriber of a channel that publications were dropped, once, before anything newer."""
        async with self._telling:
            if self.rate.is_due(channel):
                await self._deliver(channel, text_frame(encode(ResyncRequired(channel.name, FLOOD))), 1, turn)
                self.rate.note_told(channel)

    def _drop(self, channel: str, count: int) -> None:
        self._counters.publications_dropped[ErrorCode.RATE_LIMITED] += count
        self._complaints.warning(
            f"{channel} rate",
            "publications dropped: a channel is above limits.publications_per_second",
            channel=channel,
        )

    async def _tell_of_gap(self, channel: Channel, turn: Turn) -> None:
        """Tell every subscriber of a channel that publications may have been missed, once, before anything newer."""
        async with self._telling:
            if channel.has_gap:
                hearing = channel.hearing
                reason = REFUSAL if hearing == REFUSED else BREAK
                await self._deliver(channel, text_frame(encode(ResyncRequired(channel.name, reason))), 1, turn)
                channel.told = hearing

    def _frames(self, channel: str, payloads: list[bytes]) -> list[bytes]:
        frames = []
        for payload in payloads:
            try:
                if len(payload) > self.max_publication_bytes:
                    raise ProtocolError(ErrorCode.TOO_BIG, f"a publication of {len(payload)} bytes", channel)
                frames.append(text_frame(check_event(payload, channel)))
            except ProtocolError as error:
                self._counters.publications_dropped[error.code] += 1
                self._complaints.warning(
                    f"{channel} {error.code}",
                    "publication dropped",
                    channel=channel,
                    code=error.code,
                    why=error.message,
                )
        return frames

    async def _deliver(self, channel: Channel, data: bytes, count: int, turn: Turn) -> None:
        """Write to those who are subscribed now, to each in its form; who leaves during a pause gets nothing more."""
        channel.frames += count
        for window, roster in channel.rosters().items():
            form = await self._packer.pack(data, window, turn) if window else data
            channel.bytes[window] += len(form)
            await self._write(channel, roster, form, count, turn)

    async def _write(self, channel: Channel, roster: Roster, data: bytes, count: int, turn: Turn) -> None:
        """Write to those on a roster, which may be of a while ago."""
        at = delivered = 0
        if not roster.is_current(channel.version):
            roster = channel.remaining(roster, 0)
        step = max(1, min(SLICE, SLICE_BYTES // len(data)))
        while (left := len(roster.subscribers) - at) > 0:
            size = turn.take(min(step, left))
            if size == 0:
                await turn.end()
                if not roster.is_current(channel.version):
                    roster, at = channel.remaining(roster, at), 0
                continue
            ring = self.ring if roster.sockets >= self.ring_from else None
            delivered += roster.write(at, at + size, data, ring)
            at += size
        if self.ring is not None and not self.ring.works:
            self._give_up_ring()
        self._counters.deliveries += delivered * count
        self._counters.delivery_bytes += delivered * len(data)


def _by_channel(batch: Sequence[Sequence[bytes]]) -> Iterable[tuple[bytes, list[bytes]]]:
    """Return the payloads of each channel, in order; a lonely message, which finds all memory cold, soonest."""
    if len(batch) == 1:
        kind, name, payload = batch[0][:3]
        return ((name, [payload]),) if kind == b"message" else ()
    by_channel: dict[bytes, list[bytes]] = {}
    for push in batch:
        if push[0] == b"message":
            payloads = by_channel.get(push[1])
            if payloads is None:
                by_channel[push[1]] = [push[2]]
            else:
                payloads.append(push[2])
    return by_channel.items()


def joined(frames: list[bytes]) -> list[tuple[bytes, int]]:
    """Join frames to chunks of at most `JOIN_BYTES`, keeping their order; returns (bytes, number of frames) pairs."""
    if len(frames) == 1:
        return [(frames[0], 1)]
    chunks: list[tuple[bytes, int]] = []
    part: list[bytes] = []
    size = 0
    for frame in frames:
        if part and size + len(frame) > JOIN_BYTES:
            chunks.append((b"".join(part), len(part)))
            part, size = [], 0
        part.append(frame)
        size += len(frame)
    chunks.append((b"".join(part), len(part)))
    return chunks
