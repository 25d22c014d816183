"""Handing sessions over and taking them up, both in this process: what is left behind, and what goes wrong."""

import contextlib
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import attrs
import pytest
import structlog
import trio
import trustme

from broker.config import Config, Control
from broker.daemon import handover, parcel
from broker.daemon import notify as notify_module
from broker.daemon.adoption import Adoption
from broker.daemon.handover import Handover
from broker.daemon.inherit import HANDOVER
from broker.daemon.notify import Notifier
from broker.door.adopted import Adopted, serve_adopted
from broker.door.slots import Full
from broker.door.state import Kind
from broker.keys.watches import REREAD_SECONDS
from broker.publisher import Publisher
from broker.store.drive import run_sync
from broker.store.key_record import hash_of
from broker.store.keys import add_key, lookup_key, revoke_key
from broker.store.layout import Layout
from broker.wire import OpenConnection, Peer, PlainWire
from protocol.codes import CloseCode
from tests.conftest import Valkey
from tests.daemon.test_moving_peer import LIMITS
from tests.daemon.test_parcel import RECORD
from tests.daemon.test_parcel import session as handed_session
from tests.link.servers import eventually
from tests.support.service_manager import ServiceManager, service_manager
from tests.support.whole import Whole, whole_broker
from tests.support.ws_client import WsClient

CONFIG = Config(control=Control(handshake_signature="optional", ping_interval=3600, ack_timeout=60))


@attrs.frozen(eq=False)
class Site:
    """A broker that is about to end, the service manager, and what clients need."""

    valkey: Valkey
    whole: Whole
    manager: ServiceManager
    notifier: Notifier
    api_key: str

    async def agent(self, tls: ssl.SSLContext | None = None) -> WsClient:
        """Open a control session that has its snapshot."""
        client = await WsClient.connect(self.whole.address, "/ws/control/acme", {"X-API-Key": self.api_key}, tls=tls)
        await client.receive_type("initial_state")
        return client

    @property
    def peers(self) -> list[Peer]:
        """The control sessions."""
        return self.whole.broker.door.peers(Kind.CONTROL)

    async def hand_over(self) -> int:
        """Hand all of them over."""
        return await Handover(self.whole.broker, self.notifier).hand_over(self.peers)

    async def heard(self, words: str) -> None:
        """Wait until the service manager has been told."""
        await self.manager.wait_for(words)

    @contextlib.asynccontextmanager
    async def next_broker(self) -> AsyncIterator[tuple[Whole, Adoption]]:
        """Run a broker with what the service manager keeps; nothing is taken up yet."""
        left = [socket.socket(fileno=os.dup(each)) for each in self.manager.kept.get(HANDOVER, [])]
        for channel in left:
            channel.setblocking(False)
        async with whole_broker(self.valkey.url, CONFIG) as whole:
            yield whole, Adoption(whole.broker, self.notifier, left)

    def leave(
        self, sessions: list[parcel.HandedSession], sockets: list[socket.socket], *, damaged: bool = False
    ) -> None:
        """Leave a parcel with the service manager, as another process might; the first state may be damaged."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        message, memory = parcel.pack(sessions)
        if damaged:
            os.pwrite(memory, b"?", 0)
        parcel.send(ours, message, memory, [each.fileno() for each in sockets])
        os.close(memory)
        ours.close()
        self.manager.kept[HANDOVER] = [theirs.detach()]


@pytest.fixture
async def site(valkey: Valkey, tmp_path: Path) -> AsyncIterator[Site]:
    """A broker that can hand over."""
    api_key = run_sync(valkey.client, add_key(Layout(), "acme")).api_key
    async with whole_broker(valkey.url, CONFIG) as whole, service_manager(tmp_path) as manager:
        yield Site(valkey, whole, manager, Notifier(manager.address), api_key)


def descriptors() -> int:
    """How many this process has."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  Path.iterdir would hold one more


def connection(number: int = 0, unread: bytes = b"") -> OpenConnection:
    """A connection on which nothing is under way."""
    return OpenConnection(f"{number:012x}", "unix", 1.0, 0.0, unread)


def sockets(count: int) -> tuple[list[socket.socket], list[socket.socket]]:
    """Clients' ends of connections, which give up after a while, and their other ends."""
    pairs = [socket.socketpair() for _ in range(count)]
    for ours, _ in pairs:
        ours.settimeout(5)
    return [ours for ours, _ in pairs], [theirs for _, theirs in pairs]


def close_code(client: socket.socket) -> int:
    """Read a close frame, and the end behind it."""
    data = b""
    while more := client.recv(4096):
        data += more
    assert data[0] == 0x88
    return int.from_bytes(data[2:4], "big")


async def test_from_one_to_the_next(site: Site) -> None:
    """From the handing over on, the one who gave it away reads nothing more, and neither holds on to any copy."""
    async with await site.agent() as one, await site.agent() as two:
        before = descriptors()
        assert await site.hand_over() == 2
        assert descriptors() == before + 1, "what the service manager keeps"
        for client in (one, two):
            await client.send_json(type="ping")
        async with site.next_broker() as (whole, adoption):
            before = descriptors()
            await adoption.adopt()
            await adoption.finished.wait()
            assert len(whole.broker.door.peers(Kind.CONTROL)) == 2
            await site.heard("FDSTOREREMOVE=1")
            assert descriptors() == before - 2 + 2, "the channels for the sockets"
            for client in (one, two):
                assert {(await client.receive_json())["type"] for _ in range(2)} == {"initial_state", "pong"}


async def test_a_key_that_was_revoked_meanwhile(site: Site) -> None:
    """Its session is ended at once by the broker that takes it up, not when keys are read again anyway."""
    key = run_sync(site.valkey.client, lookup_key(Layout(), hash_of(site.api_key)))
    assert key is not None
    client = await site.agent()
    client.patience = REREAD_SECONDS / 2
    assert await site.hand_over() == 1
    run_sync(site.valkey.client, revoke_key(Layout(), key.key_id))
    async with site.next_broker() as (_, adoption):
        await adoption.adopt()
        assert (await client.wait_closed()).code == 4401
    await client.kill()


async def test_it_takes_its_places(site: Site) -> None:
    """What was taken up counts for its key and its address for as long as it is open."""
    [client], [theirs] = sockets(1)
    site.leave([handed_session(attrs.evolve(connection(), remote="203.0.113.7:50123"))], [theirs])
    theirs.close()
    async with site.next_broker() as (whole, adoption):
        await adoption.adopt()
        await adoption.finished.wait()
        slots = whole.broker.door.state.slots
        slots.per_key = slots.per_address = 1
        with pytest.raises(Full, match="key"):
            slots.take(RECORD.key_id, "203.0.113.8")
        with pytest.raises(Full, match="address"):
            slots.take("another", "203.0.113.7")
        client.close()
        await eventually(lambda: not whole.broker.door.peers(Kind.CONTROL))
        await eventually(lambda: not slots.taken_by(RECORD.key_id))
        slots.take("another", "203.0.113.7")


async def test_tls_stays(site: Site) -> None:
    """What encrypts a connection cannot travel: such a session is not given away, and goes on until it is closed."""
    authority = trustme.CA()
    theirs, ours = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.configure_trust(theirs)
    authority.issue_cert("localhost").configure_cert(ours)
    site.whole.broker.door.use_tls(ours)
    async with await site.agent(theirs) as client:
        assert await site.hand_over() == 0
        assert site.manager.kept == {}
        with Publisher(site.valkey.url) as publisher:
            publisher.kill("acme", "wf")
        assert (await client.receive_type("state_change"))["state"] == "Killed"


async def test_one_that_is_closing_stays(site: Site) -> None:
    """Its close frame is on its way, from before the handing over or from while the service manager is asked."""
    async with await site.agent() as client:
        [peer] = site.peers
        peer.close_soon(CloseCode.RESTARTING)
        assert await site.hand_over() == 0
        assert not any("FDSTORE" in each for each in site.manager.heard)
        assert (await client.wait_closed()).code == 1012
    async with await site.agent() as client:
        [peer] = [each for each in site.peers if not each.closing]
        given: list[int] = []

        async def hand_over() -> None:
            given.append(await site.hand_over())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hand_over)
            await site.heard("FDSTORE=1")
            peer.close_soon(CloseCode.RESTARTING)
        assert given == [0]
        assert (await client.wait_closed()).code == 1012


async def test_a_service_manager_that_does_not_work_off(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows what it will keep: nothing is given to it, and it is asked to let go of the channel."""
    monkeypatch.setattr(notify_module, "BARRIER_SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "slow"))
        manager.settimeout(5)
        async with await site.agent() as client:
            assert await Handover(site.whole.broker, Notifier(str(tmp_path / "slow"))).hand_over(site.peers) == 0
            await client.send_json(type="ping")
            assert await client.receive_json() == {"type": "pong"}
        told = [manager.recv(4096).split(b"\n")[0] for _ in range(3)]
    assert told == [b"FDSTORE=1", b"BARRIER=1", b"FDSTOREREMOVE=1"]


async def test_one_that_does_not_settle(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that is busy for too long with what it has read does not keep the others, nor the process, waiting."""
    monkeypatch.setattr(handover, "SETTLE_SECONDS", 0.05)
    ours, theirs = socket.socketpair()
    client = await site.agent()
    with ours, theirs, trio.fail_after(10):
        busy = Peer(PlainWire(ours), LIMITS)
        assert await Handover(site.whole.broker, site.notifier).hand_over([busy, *site.peers]) == 1
    await client.kill()


@contextlib.contextmanager
def room_for(count: int) -> Iterator[None]:
    """Let this process open so many descriptors more, for the length of the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [os.open(os.devnull, os.O_RDONLY) for _ in range(count + 1)]
    for each in free:
        os.close(each)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("count", [1, 2])
async def test_no_descriptors_are_left(site: Site, count: int) -> None:
    """A process that can open no more gives nothing away, and all its clients can still be told to come back."""
    async with await site.agent() as one, await site.agent() as two:
        given: list[int] = []

        async def hand_over() -> None:
            given.append(await site.hand_over())

        with contextlib.ExitStack() as limit:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hand_over)
                while not all(peer.is_settled for peer in site.peers):
                    await trio.lowlevel.checkpoint()
                limit.enter_context(room_for(count))
        assert given == [0]
        for peer in site.peers:
            peer.close_soon(CloseCode.RESTARTING)
        for client in (one, two):
            assert (await client.wait_closed()).code == 1012


@pytest.mark.parametrize("lost", [0, 1])
async def test_a_parcel_that_is_not_whole(site: Site, lost: int) -> None:
    """When a socket or a state is missing nobody can say whose is whose: all are closed."""
    clients, theirs = sockets(3)
    clients.pop().close()
    states = [handed_session(connection(number)) for number in range(2 + 2 * lost)]
    site.leave(states, theirs)
    for each in theirs:
        each.close()
    async with site.next_broker() as (whole, adoption):
        before = descriptors()
        await adoption.adopt()
        assert adoption.finished.is_set()
        assert whole.broker.door.peers(Kind.CONTROL) == []
        assert descriptors() == before - 1
    for client in clients:
        with client:
            assert close_code(client) == 1012


async def test_a_session_that_cannot_be_read(site: Site) -> None:
    """It is closed, and the others of its parcel are taken up."""
    clients, theirs = sockets(2)
    states = [handed_session(connection(number)) for number in range(2)]
    site.leave(states, theirs, damaged=True)
    for each in theirs:
        each.close()
    async with site.next_broker() as (whole, adoption):
        await adoption.adopt()
        assert close_code(clients[0]) == 1012
        await adoption.finished.wait()
        assert [peer.id for peer in whole.broker.door.peers(Kind.CONTROL)] == [f"{1:012x}"]
    for client in clients:
        client.close()


async def test_a_session_that_fails_at_once(site: Site) -> None:
    """An error of ours ends this one connection alone: it is closed, counted, and waited for no longer."""
    [client], [raw] = sockets(1)
    settled: list[bool] = []

    async def fail(_peer: Peer) -> None:
        assert settled == [True]
        raise ValueError("an error of ours")

    adopted = Adopted(raw, connection(), "key_1", fail, lambda: settled.append(True))
    client.send(b"\x88\x80\0\0\0\0")  # so that nobody waits for it
    with structlog.testing.capture_logs():
        await serve_adopted(adopted, site.whole.broker.door.state)
    assert (settled, raw.fileno(), site.whole.counters.crashed) == ([True], -1, 1)
    with client:
        assert close_code(client) == 1011


async def test_a_connection_that_cannot_be_opened(site: Site) -> None:
    """Also what fails before there is a peer leaves no socket behind and keeps no hand-over waiting."""
    [client], [raw] = sockets(1)
    settled: list[bool] = []

    async def never(_peer: Peer) -> None:
        raise AssertionError("there is no peer")

    adopted = Adopted(raw, connection(unread="text"), "key_1", never, lambda: settled.append(True))  # type: ignore[arg-type]
    with structlog.testing.capture_logs():
        await serve_adopted(adopted, site.whole.broker.door.state)
    assert (settled, raw.fileno(), site.whole.counters.crashed) == ([True], -1, 1)
    with client:
        assert client.recv(1) == b""
