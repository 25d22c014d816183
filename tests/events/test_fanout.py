"""Fan-out: what a batch becomes, who gets it, and that nobody waits for anybody."""

import contextlib
import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import structlog
import trio
import trio.testing
from redis.exceptions import NoPermissionError

from broker.events.fanout import JOIN_BYTES, REFUSED_SECONDS, FanOut, joined
from broker.wire import turn
from broker.wire.outbox import Outbox
from broker.wire.plain import PlainWire
from broker.wire.turn import MAX_WRITES
from protocol.frames import text_frame
from tests.events.parts import Listener, Stage, frames, message, payload
from tests.support.rings import open_ring, without

A, B = "workflow:a", "workflow:b"


@pytest.fixture
def stage() -> Stage:
    """Return a hub and its fan-out."""
    return Stage()


async def test_a_batch_is_one_write_per_subscriber_and_channel(stage: Stage) -> None:
    """The publications of one channel in one batch arrive joined, in order, and only where they belong."""
    a, b = stage.listeners(stage.channel(A), 3), stage.listeners(stage.channel(B), 1)
    await stage.fan_out.on_batch([message(A, 1), message(B, 2), message(A, 3), message("workflow:nobody", 4)])
    assert [listener.writes for listener in a] == [[frames(A, 1, 3)]] * 3
    assert [listener.writes for listener in b] == [[frames(B, 2)]]
    counters = stage.counters
    assert (counters.publications, counters.deliveries) == (3, 7)
    assert counters.delivery_bytes == 3 * len(frames(A, 1, 3)) + len(frames(B, 2))


async def test_what_is_no_event_is_dropped_counted_and_hurts_nobody(stage: Stage) -> None:
    """A publication that breaks the contract vanishes from the middle of a batch; its neighbours arrive."""
    (listener,) = stage.listeners(stage.channel(A), 1)
    wrong = [b"{}", b"\xff", b'{"type": "ping"}', b'{"type": "x", "channel": "workflow:b"}', b'{"type": "x", "n": NaN}']
    batch = [message(A, 1), *([b"message", A.encode(), each] for each in wrong), message(A, 2)]
    await stage.fan_out.on_batch(batch)
    assert listener.numbers == [1, 2]
    assert sum(stage.counters.publications_dropped.values()) == len(wrong)


async def test_a_publication_above_the_limit_is_dropped_and_one_at_it_passes() -> None:
    """The bound is exact, in bytes."""
    fitting = payload(A, 1, padding=100)
    stage = Stage(max_publication_bytes=len(fitting))
    (listener,) = stage.listeners(stage.channel(A), 1)
    await stage.fan_out.on_batch([message(A, 1, padding=100), message(A, 2, padding=101)])
    assert listener.numbers == [1]
    assert stage.counters.publications_dropped["too_big"] == 1


@pytest.mark.parametrize("size", [1, 200, 70_000, JOIN_BYTES - 10, JOIN_BYTES, 600_000])
def test_joined_chunks_are_bounded_and_lose_nothing(size: int) -> None:
    """Chunks hold at most `JOIN_BYTES`, unless one frame is larger; together they are all frames in order."""
    made = [text_frame(bytes([65 + number % 26]) * size) for number in range(min(40, 2 + 4_000_000 // size))]
    chunks = joined(made)
    assert b"".join(data for data, _ in chunks) == b"".join(made)
    assert sum(count for _, count in chunks) == len(made)
    for data, count in chunks:
        assert len(data) <= JOIN_BYTES or count == 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return a clock that stands at `now`, and counts the `looks` that turns have at it."""
    made = SimpleNamespace(now=100.0, looks=0)

    def look() -> float:
        made.looks += 1
        return float(made.now)

    monkeypatch.setattr(turn, "time", SimpleNamespace(perf_counter=look))
    return made


class Steps(trio.abc.Instrument):
    """Notes how many writes were made within each step of a task: between two steps all others have theirs."""

    def __init__(self, listeners: list[Listener]) -> None:
        self._listeners = listeners
        self._before = 0
        self.writes: list[int] = []

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count."""
        made = sum(len(listener.writes) for listener in self._listeners)
        self.writes.append(made - self._before)
        self._before = made


async def test_others_have_their_turn_within_a_long_fan_out(stage: Stage) -> None:
    """No more than 256 writes go by in one step of the fan-out, then every other task is asked first."""
    steps = Steps(stage.listeners(stage.channel(A), 3 * MAX_WRITES))
    trio.lowlevel.add_instrument(steps)
    await stage.fan_out.on_batch([message(A, 1)])
    await trio.lowlevel.checkpoint()
    trio.lowlevel.remove_instrument(steps)
    assert sum(steps.writes) == 3 * MAX_WRITES
    assert max(steps.writes) == MAX_WRITES == 256


async def test_others_have_their_turn_between_large_writes(stage: Stage, clock: SimpleNamespace) -> None:
    """Large events take long to write: after each MiB of them the clock is looked at, and others run if it is time."""
    listeners = stage.listeners(stage.channel(A), 64)

    def slowly(data: bytes) -> int:
        clock.now += 0.001
        return len(data)

    for listener in listeners:
        listener.takes = slowly
    steps = Steps(listeners)
    trio.lowlevel.add_instrument(steps)
    await stage.fan_out.on_batch([message(A, 1, padding=300_000)])
    await trio.lowlevel.checkpoint()
    trio.lowlevel.remove_instrument(steps)
    assert sum(steps.writes) == 64
    assert max(steps.writes) <= 4


async def test_small_channels_share_a_turn(stage: Stage, clock: SimpleNamespace) -> None:
    """What was written counts, not what might have been: a batch for many channels is one step, up to the bound."""
    names = [f"workflow:{number}" for number in range(MAX_WRITES // 4)]
    listeners = [listener for name in names for listener in stage.listeners(stage.channel(name), 4)]
    steps = Steps(listeners)
    trio.lowlevel.add_instrument(steps)
    await stage.fan_out.on_batch([message(name, 1) for name in names])
    await trio.lowlevel.checkpoint()
    trio.lowlevel.remove_instrument(steps)
    assert [writes for writes in steps.writes if writes] == [MAX_WRITES]


async def test_a_turn_that_is_partly_used_is_not_overdrawn(stage: Stage, clock: SimpleNamespace) -> None:
    """A large channel behind a small one gets what is left of the turn first: together no more than `MAX_WRITES`."""
    listeners = [*stage.listeners(stage.channel(A), 4), *stage.listeners(stage.channel(B), 2 * MAX_WRITES)]
    steps = Steps(listeners)
    trio.lowlevel.add_instrument(steps)
    await stage.fan_out.on_batch([message(A, 1), message(B, 1)])
    await trio.lowlevel.checkpoint()
    trio.lowlevel.remove_instrument(steps)
    assert [writes for writes in steps.writes if writes] == [MAX_WRITES, MAX_WRITES, 4]


async def test_small_writes_go_by_without_a_look_at_the_clock(stage: Stage, clock: SimpleNamespace) -> None:
    """What a look at the clock costs is shared by a hundred writes or so, if they are small."""
    stage.listeners(stage.channel(A), 1024)
    await stage.fan_out.on_batch([message(A, 1)])
    assert 1024 / 256 <= clock.looks <= 1024 / 64


async def test_who_leaves_during_a_pause_gets_nothing_more(stage: Stage) -> None:
    """A subscriber that is gone when its turn comes is not written to; all others are, once; newcomers are not."""
    channel = stage.channel(A)
    listeners = stage.listeners(channel, 3 * MAX_WRITES)
    late = Listener()

    def leave(data: bytes) -> int:
        for number in (5, MAX_WRITES + 300, 3 * MAX_WRITES - 1):
            channel.leave(str(number))
        channel.join("late", late)
        return len(data)

    listeners[7].takes = leave
    await stage.fan_out.on_batch([message(A, 1)])
    missed = [number for number, listener in enumerate(listeners) if listener.numbers != [1]]
    assert missed == [MAX_WRITES + 300, 3 * MAX_WRITES - 1]
    assert late.writes == []
    await stage.fan_out.on_batch([message(A, 2)])
    assert late.numbers == [2]


async def test_a_subscriber_whose_way_of_writing_changes_is_written_to_the_new_way(stage: Stage) -> None:
    """A roster is not used any more once an outbox has something pending: nothing overtakes what waits."""
    channel = stage.channel(A)
    with SlowSocket() as (outbox, theirs):
        channel.join("slow", outbox)
        number = 0
        while not outbox.pending:
            number += 1
            await stage.fan_out.on_batch([message(A, number, padding=1000)])
        for _ in range(3):
            number += 1
            await stage.fan_out.on_batch([message(A, number, padding=1000)])
        received = b""
        async with trio.open_nursery() as nursery:
            outbox.start(nursery)
            while outbox.pending:
                await trio.testing.wait_all_tasks_blocked()
                received += drain(theirs)
            nursery.cancel_scope.cancel()
        number += 1
        await stage.fan_out.on_batch([message(A, number, padding=1000)])
        received += drain(theirs)
    assert received == b"".join(text_frame(payload(A, each, 1000)) for each in range(1, number + 1))


async def test_sockets_are_written_to_together_from_so_many_on(stage: Stage) -> None:
    """Only sockets count for the setting, not who else listens; whichever way, everybody gets every event in order."""
    channel = stage.channel(A)
    stage.listeners(channel, 9)
    with open_ring() as ring, contextlib.ExitStack() as sockets:
        fan_out = FanOut(stage.hub, stage.counters, 1 << 20, ring=ring, ring_from=3)
        theirs, together = [], []
        for number in range(1, 5):
            outbox, other = sockets.enter_context(SlowSocket())
            channel.join(f"socket {number}", outbox)
            theirs.append(other)
            before = ring._asked
            await fan_out.on_batch([message(A, number)])
            together.append(ring._asked - before)
        assert together == [0, 0, 3, 4]
        assert [drain(other) for other in theirs] == [frames(A, *range(first, 5)) for first in range(1, 5)]


async def test_a_ring_that_fails_is_given_up_aloud(stage: Stage) -> None:
    """The events of that moment wait and arrive, those after it go without the ring, and one line tells."""
    channel = stage.channel(A)
    with open_ring() as ring, SlowSocket() as (outbox, theirs), structlog.testing.capture_logs() as log:
        fan_out = FanOut(stage.hub, stage.counters, 1 << 20, ring=ring)
        channel.join("socket", outbox)
        with without(ring):
            await fan_out.on_batch([message(A, 1)])
        for number in (2, 3):
            await fan_out.on_batch([message(A, number)])
        await outbox.drain()
        await fan_out.on_batch([message(A, 4)])
        assert drain(theirs) == frames(A, 1, 2, 3, 4)
    assert [(line["log_level"], line["event"][:20]) for line in log] == [("error", "io_uring is given up")]


async def test_a_ring_lives_as_long_as_the_fan_out(stage: Stage) -> None:
    """It is given back at the end; what is published after that goes without, and needs no complaint."""
    channel = stage.channel(A)
    with open_ring() as ring, SlowSocket() as (outbox, theirs), structlog.testing.capture_logs() as log:
        fan_out = FanOut(stage.hub, stage.counters, 1 << 20, ring=ring)
        channel.join("socket", outbox)
        async with trio.open_nursery() as nursery:
            await nursery.start(fan_out.run)
            worked = [ring.works]
            nursery.cancel_scope.cancel()
        assert [*worked, ring.works] == [True, False]
        await fan_out.on_batch([message(A, 1)])
        assert drain(theirs) == frames(A, 1)
    assert log == []


async def test_a_slow_reader_is_closed_with_1013_and_nobody_else_notices(stage: Stage) -> None:
    """Among a hundred, the one that does not read overflows its own outbox; the others get every event."""
    channel = stage.channel(A)
    listeners = stage.listeners(channel, 99)
    with SlowSocket(limit=20_000) as (outbox, _):
        channel.join("slow", outbox)
        for number in range(1, 61):
            await stage.fan_out.on_batch([message(A, number, padding=5000)])
        assert outbox.too_slow
        assert outbox.pending <= 20_000
    assert all(listener.numbers == list(range(1, 61)) for listener in listeners)
    assert stage.counters.deliveries < 60 * 100


async def test_errors_of_one_socket_are_its_own(stage: Stage) -> None:
    """A write that raises, or takes a part, is dealt with by that subscriber alone, in the middle of the others."""

    def blocked(_: bytes) -> int:
        raise BlockingIOError

    def broken(_: bytes) -> int:
        raise BrokenPipeError

    channel = stage.channel(A)
    listeners = stage.listeners(channel, 9)
    listeners[2].takes, listeners[3].takes, listeners[5].takes = blocked, broken, lambda _: 4
    listeners[2].arrives = listeners[5].arrives = True
    await stage.fan_out.on_batch([message(A, 1)])
    data = frames(A, 1)
    assert [listener.rests for listener in listeners[2:6]] == [[(data, 0)], [(data, -1)], [], [(data, 4)]]
    assert all(listener.writes == [data] for listener in listeners)
    assert stage.counters.deliveries == 8


async def test_all_subscribers_hear_of_a_break_before_anything_newer(stage: Stage) -> None:
    """After Redis was subscribed to anew, `resync_required` comes first, once, on every channel that lives."""
    channel = stage.channel(A)
    first, second = stage.listeners(channel, 2)
    channel.confirmation.unconfirm()
    channel.confirmation.confirm(0, 2)
    stage.fan_out.note_break()
    await stage.fan_out.on_batch([message(A, 1)])
    async with trio.open_nursery() as nursery:
        await nursery.start(stage.fan_out.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    for listener in (first, second):
        assert [b"resync_required" in data for data in listener.writes] == [True, False]
        assert b'"channel":"workflow:a"' in listener.writes[0]


async def test_a_channel_that_redis_refuses_after_a_break(
    stage: Stage, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Its subscribers are told, once; Redis is asked again until it lets us hear it, and they are told once more."""
    await nursery.start(stage.fan_out.run)
    channel, other = stage.channel(A), stage.channel(B)
    (listener,), (neighbour,) = stage.listeners(channel, 1), stage.listeners(other, 1)
    with structlog.testing.capture_logs() as logs:
        for each in (channel, other):
            each.confirmation.unconfirm()
        channel.confirmation.refuse(NoPermissionError("no"))
        other.confirmation.confirm(0, 2)
        stage.fan_out.note_break()
        for _ in range(3):
            refused = channel.confirmation
            await trio.sleep(REFUSED_SECONDS + 0.1)
            assert channel.confirmation is not refused
            channel.confirmation.refuse(NoPermissionError("no"))
    assert [(line["event"], line["channel"], line["channels"]) for line in logs] == [
        ("Redis refused a subscription", A, 1)
    ]
    assert len(listener.writes) == len(neighbour.writes) == 1
    assert b"resync_required" in listener.writes[0]
    await trio.sleep(REFUSED_SECONDS + 0.1)
    channel.confirmation.confirm(0, 2)
    await trio.testing.wait_all_tasks_blocked()
    assert [b"resync_required" in data for data in listener.writes] == [True, True]
    await stage.fan_out.on_batch([message(A, 1)])
    assert listener.writes[2:] == [frames(A, 1)]
    assert len(neighbour.writes) == 1


async def test_a_refused_channel_is_not_asked_for_again_when_nobody_is_left(
    stage: Stage, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Its last subscriber leaves while Redis refuses it."""
    await nursery.start(stage.fan_out.run)
    channel = stage.channel(A)
    stage.listeners(channel, 1)
    channel.confirmation.refuse(NoPermissionError("no"))
    stage.fan_out.note_break()
    await trio.testing.wait_all_tasks_blocked()
    refused = channel.confirmation
    stage.hub.release(channel, "0")
    await trio.sleep(2 * REFUSED_SECONDS)
    assert channel.confirmation is refused


class SlowSocket:
    """An outbox on a socket with a small buffer, and the other end."""

    def __init__(self, limit: int = 1 << 20) -> None:
        ours, self.theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.theirs.setblocking(False)
        self.outbox = Outbox(PlainWire(ours), limit)
        self.ours = ours

    def __enter__(self) -> tuple[Outbox, socket.socket]:
        return self.outbox, self.theirs

    def __exit__(self, *_: object) -> None:
        self.ours.close()
        self.theirs.close()


def drain(theirs: socket.socket) -> bytes:
    """Return all that has arrived."""
    return b"".join(_parts(theirs))


def _parts(theirs: socket.socket) -> Iterator[bytes]:
    try:
        while part := theirs.recv(1 << 20):
            yield part
    except BlockingIOError:
        return
