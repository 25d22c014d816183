"""TLS wires: their records are made in one place, and nobody gets another's."""

import gc
import random
import resource
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from broker.wire.outbox import Outbox
from broker.wire.passes import Passes
from broker.wire.plain import PlainWire, WireBroken
from broker.wire.tls import MAX_BARREN, TlsWire
from broker.wire.turnstile import Turnstile
from protocol.frames import text_frame
from tests.support.tls_records import ClientRecords

COUNT = 40
LONG = bytes(1 << 20)


class Client:
    """The other end of a wire: OpenSSL over buffers, moved by hand, so that any order of steps can be had."""

    def __init__(self, server: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
        ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        self.wire = TlsWire(PlainWire(ours), server)
        self._come, self._go = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = trusting.wrap_bio(self._come, self._go, server_hostname="localhost")
        self.shaken = self.ended = False

    def shake(self) -> None:
        """Go on with the handshake as far as possible."""
        self.pass_on()
        try:
            self.tls.do_handshake()
            self.shaken = True
        except ssl.SSLWantReadError:
            pass
        self.pass_on()

    def pass_on(self) -> None:
        """Move what has come in, and what is to go out."""
        try:
            while data := self.theirs.recv(1 << 20):
                self._come.write(data)
        except BlockingIOError:
            pass
        if self._go.pending:
            self.theirs.send(self._go.read())

    def received(self, records: bytes) -> bytes:
        """Return what is in records; raises SSLError if they are not of this connection."""
        self._come.write(records)
        data = b""
        try:
            while part := self.tls.read(1 << 20):
                data += part
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        return data

    def close(self) -> None:
        self.wire.close()
        self.theirs.close()


@pytest.fixture
async def clients() -> AsyncIterator[list[Client]]:
    """Return clients whose handshakes, all at the same time, are done."""
    authority = trustme.CA()
    server, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(trusting)
    made = [Client(server, trusting) for _ in range(COUNT)]
    async with trio.open_nursery() as nursery:
        for client in made:
            nursery.start_soon(client.wire.handshake)
        while not all(client.shaken for client in made):
            for client in made:
                client.shake()
            await trio.lowlevel.checkpoint()
    for client in made:
        client.pass_on()
    yield made
    for client in made:
        client.close()


async def test_everybody_gets_his_own_records(clients: list[Client]) -> None:
    """Whoever writes, reads or says goodbye in whatever order: each connection's records are whole and in order."""
    dice = random.Random(4)
    expected: dict[int, bytes] = dict.fromkeys(range(COUNT), b"")
    arrived = dict(expected)
    for number in range(400):
        place = dice.randrange(COUNT)
        client = clients[place]
        if dice.random() < 0.3:
            client.tls.write(b"from a client")
            client.pass_on()
            assert await client.wire.receive_some() == b"from a client"
        data = f"{place} {number} ".encode() * dice.randrange(1, 4000)
        arrived[place] += client.received(client.wire.encrypt(data))
        expected[place] += data
    for place, client in enumerate(clients):
        assert not client.ended
        arrived[place] += client.received(client.wire.farewell())
        assert client.ended
    assert arrived == expected


async def test_the_trouble_of_one_is_his_own(clients: list[Client]) -> None:
    """What OpenSSL says to a client that sends rubbish, or to none, never gets among the records of others."""
    for broken, sound in zip(clients[: COUNT // 2], clients[COUNT // 2 :], strict=True):
        broken.theirs.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(WireBroken):
            await broken.wire.receive_some()
        assert sound.received(sound.wire.encrypt(b"hello")) == b"hello"
        broken.wire.farewell()
        with pytest.raises(ssl.SSLError):
            broken.wire.encrypt(b"after the end")
        assert sound.received(sound.wire.encrypt(b"hello again")) == b"hello again"


async def test_what_was_written_is_not_kept(clients: list[Client]) -> None:
    """A connection that once was sent much is as small afterwards as before."""
    gc.collect()
    before = resident()
    for client in clients:
        assert len(client.wire.encrypt(LONG)) > len(LONG)
    assert resident() - before < COUNT * len(LONG) / 4


@pytest.fixture
async def odd(tmp_path: Path) -> AsyncIterator[tuple[Client, ClientRecords]]:
    """Return a client, its handshake done, and what makes records in its name."""
    authority = trustme.CA()
    server, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(trusting)
    trusting.keylog_filename = str(tmp_path / "secrets")
    client = Client(server, trusting)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.wire.handshake)
        while not client.shaken:
            client.shake()
            await trio.lowlevel.checkpoint()
    client.pass_on()
    yield client, ClientRecords(tmp_path / "secrets")
    client.close()


@pytest.mark.parametrize("is_requested", [True, False])
@pytest.mark.parametrize("data", [b"", b"x"])
async def test_a_flood_of_new_keys_ends_the_connection(
    odd: tuple[Client, ClientRecords], is_requested: bool, data: bytes
) -> None:
    """Key updates cost much and say nothing: a client that sends little else is cut off, answered or not."""
    client, records = odd
    flood = b""
    while len(flood) < 2 * MAX_BARREN:
        flood += b"".join(records.key_update(is_requested) for _ in range(2000))
        flood += records.data(data) if data else b""
    client.theirs.send(flood)
    with pytest.raises(WireBroken, match="no data"):
        await receive_for_ever(client)


async def test_others_have_their_turns_during_a_flood(odd: tuple[Client, ClientRecords]) -> None:
    """Whoever sends no data waits in the line of the handshakes for each further stretch of it."""
    client, records = odd
    turns = Turnstile(1, 1000, -1, Passes())
    client.wire._turns = turns
    client.theirs.send(b"".join(records.key_update(True) for _ in range(200)) + records.data(b"at last"))
    received = []

    async def receive() -> None:
        received.append(await client.wire.receive_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        assert turns.waiting == 1
        nursery.start_soon(turns.run)
        while not received:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert received == [b"at last"]


async def test_data_in_between_earns_no_turns(odd: tuple[Client, ClientRecords]) -> None:
    """Whoever says a word now and then is not cut off for it, but waits in that line all the same."""
    client, records = odd
    turns = client.wire._turns = Turnstile(1, 1000, -1, Passes())
    flood = b"".join(records.key_update(False) for _ in range(100)) + records.data(b"a word")
    client.theirs.send(flood)
    assert await client.wire.receive_some() == b"a word"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.wire.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        assert turns.waiting == 1
        nursery.cancel_scope.cancel()


async def test_a_client_that_changes_keys_or_pads_is_served(odd: tuple[Client, ClientRecords]) -> None:
    """New keys before every message, and padding to a few bytes or to the full, at any speed: all that is TLS."""
    client, records = odd
    for _ in range(300):
        client.theirs.send(records.key_update(True) + records.data(b"new key"))
        assert await client.wire.receive_some() == b"new key"
        client.theirs.send(records.data(b"padded", 512 - 6))
        assert await client.wire.receive_some() == b"padded"
        client.pass_on()
        client.theirs.send(records.data(b"to the full", 16_300))
        assert await client.wire.receive_some() == b"to the full"
    client.pass_on()
    assert client.received(client.wire.encrypt(b"understood")) == b"understood"


async def test_a_long_record_may_come_in_any_pieces(odd: tuple[Client, ClientRecords]) -> None:
    """What is large is not barren, however slowly it comes."""
    client, records = odd
    sent = b"".join(records.data(bytes(16_384)) for _ in range(8))
    received = bytearray()

    async def receive() -> None:
        while len(received) < 8 * 16_384:
            received.extend(await client.wire.receive_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        for at in range(0, len(sent), 1000):
            client.theirs.send(sent[at : at + 1000])
            await trio.testing.wait_all_tasks_blocked()


async def test_answers_to_a_client_that_does_not_read_are_bounded(odd: tuple[Client, ClientRecords]) -> None:
    """New keys for us are asked for in between messages, and the answers are not taken: the outbox ends that."""
    client, records = odd
    client.wire.raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    outbox = Outbox(client.wire, 20_000)
    while not outbox.pending:
        outbox.send(text_frame(b"unread"))
    while not outbox.dead:
        client.theirs.send(records.key_update(True) + records.data(b"more"))
        assert await client.wire.receive_some() == b"more"
        assert outbox.pending <= 20_000 + 100
    assert outbox.too_slow


async def receive_for_ever(client: Client) -> None:
    """Read on; fails when nothing more comes."""
    with trio.fail_after(5):
        while True:
            await client.wire.receive_some()


def resident() -> int:
    """Return the memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
