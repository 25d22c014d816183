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
import trustme

from broker.wire.plain import PlainWire, WireBroken
from broker.wire.tls import TlsWire

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


def resident() -> int:
    """Return the memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
