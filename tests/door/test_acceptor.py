"""The accept loop under pressure: too many handshakes, no descriptors."""

import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from broker.http import HttpBounds, acceptor, listen
from broker.http.gate import Gate
from broker.observe import Counters, Repeated, get_logger
from broker.wire.plain import PlainWire, describe_address
from tests.door.conftest import BOUNDS, Site
from tests.support import RawClient

FEW = attrs.evolve(BOUNDS, max_handshakes=3)


@pytest.mark.parametrize("bounds", [FEW])
async def test_newcomers_wait_while_handshakes_are_full(site: Site, bounds: HttpBounds) -> None:
    """With as many unfinished handshakes as allowed, one more waits in the backlog and is served when one ends."""
    slow = [await site.raw() for _ in range(3)]
    while site.door.state.gate.is_open:
        await trio.lowlevel.checkpoint()
    async with await site.raw() as late:
        await late.send(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        assert site.services.counters.accepted == 3
        await slow.pop().aclose()
        assert (await late.reply()).status == 200
    for client in slow:
        await client.aclose()


@pytest.mark.parametrize("bounds", [FEW])
async def test_sessions_are_no_handshakes(site: Site, bounds: HttpBounds) -> None:
    """An open WebSocket does not count as a handshake."""
    clients = [await site.websocket("/ws/?token=nr_live_good") for _ in range(4)]
    assert [await client.receive() for client in clients] == ["events k1"] * 4
    assert site.door.state.gate.inside == 0
    for client in clients:
        await client.close()


@pytest.mark.parametrize("bounds", [FEW])
async def test_crowded_door_keeps_no_connection_alive(site: Site, bounds: HttpBounds) -> None:
    """When the gate is half full, plain HTTP connections are closed after their answer."""
    async with await site.raw() as one, await site.raw() as two:
        while site.door.state.gate.inside < 2:
            await trio.lowlevel.checkpoint()
        assert (await one.request("GET", "/health/live")).headers["connection"] == "close"
        assert await one.read_to_end() == b""
        del two


class Steps(trio.abc.Instrument):
    """Notes how many connections each step of a task has taken: between two steps all others have theirs.

    Attributes:
        counts: of each step.
        queued: how many the gate knew to be in the queue, by how many had been taken.
    """

    def __init__(self, taken: list[socket.socket], gate: Gate) -> None:
        self._taken = taken
        self._gate = gate
        self._before = 0
        self.counts: list[int] = []
        self.queued: dict[int, int] = {}

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count."""
        self.counts.append(len(self._taken) - self._before)
        if self.counts[-1]:
            self.queued[len(self._taken)] = self._gate.queued
        self._before = len(self._taken)


@pytest.mark.parametrize(
    ("bind", "queued"), [("127.0.0.1:0", {16: 34, 32: 18, 48: 2, 50: 0}), ("unix", {16: 16, 32: 32, 48: 48, 50: 0})]
)
async def test_others_have_their_turn_while_a_crowd_is_taken(
    bind: str, queued: dict[int, int], tmp_path: Path, nursery: trio.Nursery
) -> None:
    """Of many that wait in the backlog sixteen are taken at once, some milliseconds of work, then others come.

    The gate knows how many more there are; those that come over a unix socket it can but count.
    """
    taken: list[socket.socket] = []
    gate = Gate(1000)
    steps = Steps(taken, gate)

    def take(raw: socket.socket, _address: object) -> None:
        taken.append(raw)

    with listen(f"unix:{tmp_path}/s" if bind == "unix" else bind) as listener:
        clients = [socket.socket(listener.family) for _ in range(50)]
        for client in clients:
            client.connect(listener.getsockname())
        trio.lowlevel.add_instrument(steps)
        nursery.start_soon(acceptor.accept_forever, listener, gate, take, Counters(), Repeated(get_logger()))
        while len(taken) < 50:
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(steps)
        nursery.cancel_scope.cancel()
        for each in clients + taken:
            each.close()
    assert steps.queued == queued
    assert max(steps.counts) == 16


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0", "unix"])
async def test_a_connection_comes_with_its_address(bind: str, tmp_path: Path, nursery: trio.Nursery) -> None:
    """Nobody need ask the kernel again who a connection is from; small frames are not held back (TCP_NODELAY)."""
    taken: list[tuple[socket.socket, object]] = []
    came = trio.Event()

    def take(raw: socket.socket, address: object) -> None:
        taken.append((raw, address))
        came.set()

    with listen(f"unix:{tmp_path}/s" if bind == "unix" else bind) as listener, socket.socket(listener.family) as client:
        client.connect(listener.getsockname())
        nursery.start_soon(acceptor.accept_forever, listener, Gate(1000), take, Counters(), Repeated(get_logger()))
        await came.wait()
        nursery.cancel_scope.cancel()
        [(raw, address)] = taken
        with raw:
            assert raw.gettimeout() == 0
            assert describe_address(address) == PlainWire(raw).remote
            if bind != "unix":
                assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """Leaves the process no descriptor for another connection once the test has made its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_out_of_descriptors(
    site: Site, few_descriptors: None, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    """Without descriptors nothing is accepted and nothing breaks; when there are some again, the client is served."""
    monkeypatch.setattr(acceptor, "EXHAUSTED_PAUSE", 0.01)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    client = socket.socket()
    client.setblocking(False)
    resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, hard))
    await trio.lowlevel.checkpoint()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))
    await stream.socket.connect(site.address)
    while not site.services.counters.accept_errors:
        await trio.lowlevel.checkpoint()
    assert site.services.counters.accepted == 0
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    async with RawClient(stream) as served:
        assert (await served.request("GET", "/health/live")).status == 200
