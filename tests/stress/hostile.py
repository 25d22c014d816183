"""Clients that are broken or mean it, and exactly how each of them must end."""

import contextlib
import socket
from collections.abc import Mapping

import trio

from tests.soak.ledger import Ledger
from tests.stress.browser import PING, PONG, Place
from tests.support.lean_client import LeanClient, Refused, client_frame
from tests.support.raw_client import RawClient
from tests.support.ws_client import Closed

__all__ = ["MALFORMED", "Stalled", "bad_token", "connect", "half_open", "malformed", "slow_head"]

MALFORMED: Mapping[str, tuple[bytes, int]] = {
    "a frame without a mask": (b"\x81\x02hi", 1002),
    "an opcode that is none": (client_frame(b"", 0x83), 1002),
    "a reserved bit": (client_frame(b"", 0xC1), 1002),
    "a fragmented ping": (client_frame(b"", 0x09), 1002),
    "a continuation of nothing": (client_frame(b"x", 0x80), 1002),
    "a ping of 126 bytes": (client_frame(bytes(126), 0x89), 1002),
    "a length that is too long": (b"\x81\xfe\x00\x05" + bytes(9), 1002),
    "a close code that is none": (client_frame(b"\x00\x00", 0x88), 1002),
    "text that is no UTF-8": (client_frame(b"\xff\xfe"), 1007),
    "a message above the limit": (b"\x81\xff" + (1 << 40).to_bytes(8) + bytes(4), 1009),
    "too many fragments": (client_frame(b"", 0x01) + client_frame(b"", 0x00) * 1100, 1009),
    "nothing but nonsense": (client_frame(b"{nonsense") * 120, 4400),
}


async def connect(place: Place, token: str) -> LeanClient:
    """Open an event socket, as soon as there is room for one."""
    while True:
        try:
            return await LeanClient.connect(
                place.address, f"/ws/?token={token}", tls=place.tls, patience=place.patience
            )
        except Refused as refused:
            if refused.status != 503:
                raise
        await trio.sleep(0.2)


async def malformed(place: Place, token: str, what: str, ledger: Ledger) -> None:
    """Send it, and be closed with the very code."""
    data, code = MALFORMED[what]
    client = await connect(place, token)
    try:
        with contextlib.suppress(trio.BrokenResourceError):
            await client.stream.send_all(data)
        _expect(await _end_of(client, place.patience), code, what, ledger)
    finally:
        await client.kill()


async def slow_head(place: Place, ledger: Ledger) -> None:
    """Send a head a byte at a time, and be told 408."""
    client = await RawClient.connect(place.address, place.tls, place.patience)
    try:
        await client.send(b"GET /ws/ HTTP/1.1\r\nHost: a\r\nX-Slow: ")
        async with trio.open_nursery() as nursery:

            async def trickle() -> None:
                while await client.send_quietly(b"a"):  # noqa: ASYNC110
                    await trio.sleep(0.25)

            nursery.start_soon(trickle)
            reply = await client.reply()
            nursery.cancel_scope.cancel()
        _expect(reply.status, 408, "a slow head", ledger)
    except (EOFError, trio.BrokenResourceError) as error:
        ledger.complain(f"a slow head was not answered: {error!r}")
    finally:
        await client.aclose()


async def bad_token(place: Place, number: int, ledger: Ledger) -> None:
    """Come with a token that is none: told by a close code three times, then refused."""
    target = f"/ws/?token=nr_live_wrong_{number}"
    for _ in range(3):
        client = await LeanClient.connect(place.address, target, tls=place.tls, patience=place.patience)
        _expect(await _end_of(client, place.patience), 1008, "a bad token", ledger)
        await client.kill()
    try:
        client = await LeanClient.connect(place.address, target, tls=place.tls, patience=place.patience)
    except Refused as refused:
        _expect(refused.status, 401, "a bad token for the fourth time", ledger)
    else:
        ledger.complain("a bad token was let in for the fourth time")
        await client.kill()


async def half_open(place: Place, token: str, channel: str, ledger: Ledger) -> None:
    """Subscribe, never answer a ping, and be closed with 4408."""
    client = await connect(place, token)
    try:
        await client.send(b'{"type":"subscribe","channel":"%b"}' % channel.encode())
        _expect(await _end_of(client, place.patience), 4408, "a peer that answers no ping", ledger)
    finally:
        await client.kill()


class Stalled:
    """A client that reads until it is frozen, and then no more until it is woken; it must find that it was closed."""

    def __init__(self, place: Place, token: str, ledger: Ledger) -> None:
        self._place, self._token, self._ledger = place, token, ledger

    async def run(
        self,
        channel: str,
        frozen: trio.Event,
        wake: trio.Event,
        task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Subscribe, answer pings until frozen, read nothing until woken, then to the end: a close with 1013.

        It is started with how many bytes its kernel keeps of what it does not read.
        """
        client = await connect(self._place, self._token)
        try:
            await client.send(b'{"type":"subscribe","channel":"%b"}' % channel.encode())
            await client.receive()
            task_status.started(_narrow(client))
            async with trio.open_nursery() as awake:
                awake.start_soon(_answer_pings, client)
                await frozen.wait()
                awake.cancel_scope.cancel()
            await wake.wait()
            _expect(await _end_of(client, self._place.patience), 1013, "a peer that does not read", self._ledger)
        finally:
            await client.kill()


async def _answer_pings(client: LeanClient) -> None:
    while True:
        for message in await client.receive():
            if message == PING:
                await client.send(PONG)


def _narrow(client: LeanClient) -> int:
    """Have the kernel keep little of what is not read, it would take tens of megabytes; return how much, in bytes."""
    stream = client.stream
    assert isinstance(stream, trio.SSLStream)
    stream.transport_stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 262144)
    return int(stream.transport_stream.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))


async def _end_of(client: LeanClient, patience: float) -> int:
    with trio.move_on_after(patience):
        try:
            while True:
                await client.receive()
        except Closed as closed:
            return closed.code
    return 0


def _expect(found: int, wanted: int, what: str, ledger: Ledger) -> None:
    ledger.counts[f"{what}: {found}"] += 1
    if found != wanted:
        ledger.complain(f"{what} ended with {found}, not {wanted}")
