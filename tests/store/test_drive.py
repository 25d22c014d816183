"""Both drivers, and every shape that replies come in."""

import hiredis
import pytest
import redis
import trio

from broker.store.apply import apply
from broker.store.brokers import heartbeat
from broker.store.drive import run, run_sync
from broker.store.key_record import hash_of
from broker.store.keys import add_key, list_keys, lookup_key, rotate_key
from broker.store.log import read_log
from broker.store.presence import Presence, put_presence, read_presence
from broker.store.receipts import Addressee, deliver, read_receipt
from broker.store.request import Operation, command
from broker.store.schema import check_schema
from broker.store.snapshot import Position, read_snapshot
from protocol.control import StateChangeInput
from protocol.states import State
from tests.conftest import Valkey
from tests.store.helpers import LAYOUT, ORG, change, done


class Wire:
    """A bare asynchronous Redis over one socket, speaking RESP2 or RESP3."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.reader = hiredis.Reader(replyError=redis.connection.DefaultParser.parse_error)
        self.calls: list[object] = []

    async def call(self, *words: bytes | str | int) -> object:
        self.calls.append(words[0])
        await self.stream.send_all(hiredis.pack_command(words))  # type: ignore[arg-type]
        while (reply := self.reader.gets()) is False:
            self.reader.feed(await self.stream.receive_some())
        if isinstance(reply, Exception):
            raise reply
        return reply


@pytest.mark.parametrize("protocol", [2, 3])
async def test_asynchronous_driver(valkey: Valkey, protocol: int) -> None:
    """Every operation reads its replies in RESP2 and in RESP3, and brings scripts along that the server lost."""
    async with await trio.open_unix_socket(str(valkey.socket)) as stream:
        wire = Wire(stream)
        await wire.call("HELLO", protocol)
        valkey.client.script_flush()
        await run(wire.call, check_schema(LAYOUT))
        made = await run(wire.call, add_key(LAYOUT, ORG, channels=("a",), api_key="k"))
        rotated = await run(wire.call, rotate_key(LAYOUT, made.record.key_id))
        assert {"EVAL", "EVALSHA"} < set(wire.calls)
        assert await run(wire.call, lookup_key(LAYOUT, hash_of("k"))) == rotated
        assert await run(wire.call, list_keys(LAYOUT, ORG)) == await run(wire.call, list_keys(LAYOUT)) == (rotated,)
        message = StateChangeInput("wf", State.KILLED, reason="r")
        applied = await run(wire.call, apply(LAYOUT, ORG, message, actor="ops"))
        snapshot = await run(wire.call, read_snapshot(LAYOUT, ORG))
        assert snapshot.open_receipts == {"wf": applied.message_id}
        assert (await run(wire.call, read_log(LAYOUT, ORG, Position(None, 0, 0)))).complete
        await run(wire.call, deliver(LAYOUT, ORG, applied.message_id, "b", [Addressee("s", "k")]))
        receipt = await run(wire.call, read_receipt(LAYOUT, ORG, applied.message_id))
        assert receipt is not None
        assert receipt.brokers == {"b": 1}
        await run(wire.call, heartbeat(LAYOUT, "b", {}))
        await run(wire.call, put_presence(LAYOUT, ORG, "b", {"s": Presence("k", None, 1)}))
        assert len(await run(wire.call, read_presence(LAYOUT, ORG))) == 1


async def test_large_snapshot_leaves_room_for_others(valkey: Valkey) -> None:
    """Reading an organization of many workflows never holds an event loop for more than some hundreds of them."""
    for number in range(600):
        change(valkey, State.PAUSED, workflow=f"wf-{number}")
    async with await trio.open_unix_socket(str(valkey.socket)) as stream:
        wire = Wire(stream)
        snapshot = await run(wire.call, read_snapshot(LAYOUT, ORG))
    assert len(snapshot.workflows) == 600
    assert wire.calls.count("PING") == 2


def test_decoding_client_is_understood_too(valkey: Valkey) -> None:
    """A client that a program has already, with decode_responses and RESP3, works as well."""
    client = redis.Redis(unix_socket_path=str(valkey.socket), decode_responses=True, protocol=3)
    try:
        made = run_sync(client, add_key(LAYOUT, ORG, name="ä"))
        assert run_sync(client, list_keys(LAYOUT)) == (made.record,)
        run_sync(client, apply(LAYOUT, ORG, StateChangeInput("wf", State.KILLED, reason="ä\u2028")))
        assert run_sync(client, read_snapshot(LAYOUT, ORG)).workflows["wf"].workflow.reason == "ä\u2028"
        assert len(run_sync(client, read_log(LAYOUT, ORG, Position(None, 0, 0))).entries) == 1
    finally:
        client.close()


def test_operation_may_handle_an_error_reply(valkey: Valkey) -> None:
    """An error reply is raised inside the operation, which may go on from it; else it reaches the caller."""

    def careful() -> Operation[str]:
        try:
            yield command("NO-SUCH-COMMAND")
        except redis.exceptions.ResponseError:
            yield command("PING")
        return "went on"

    def careless() -> Operation[str]:
        yield command("NO-SUCH-COMMAND")
        return "never"

    assert done(valkey, careful()) == "went on"
    with pytest.raises(redis.exceptions.ResponseError):
        done(valkey, careless())
