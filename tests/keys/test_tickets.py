"""Tickets of real brokers: good anywhere, once, and never better than the key that they were made with."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from broker.config import Config
from broker.keys import KeyCache
from broker.keys.errors import KeysUnavailable
from broker.keys.tickets import PATIENCE, Tickets
from broker.link.errors import LinkDown
from broker.observe import Counters
from broker.store.drive import run_sync
from broker.store.key_record import KeyRecord
from broker.store.keys import NewKey, add_key, revoke_key
from broker.store.layout import Layout
from tests.conftest import Valkey
from tests.support import RawClient, WsClient
from tests.support.whole import Whole, whole_broker

LAYOUT = Layout()


def add(valkey: Valkey, *channels: str) -> NewKey:
    """Make a key."""
    return run_sync(valkey.client, add_key(LAYOUT, "acme", channels=channels))


async def ticket(broker: Whole, made: NewKey) -> str:
    """Get a ticket from a broker."""
    async with await RawClient.connect(broker.address) as client:
        reply = await client.request("POST", "/api/v1/tickets", {"Authorization": f"Bearer {made.api_key}"})
        return str(reply.json["ticket"])


async def test_a_ticket_of_one_broker_opens_a_socket_of_another(valkey: Valkey) -> None:
    """Behind a load balancer a ticket is good at every broker, sees what its key sees, and is used up everywhere."""
    made = add(valkey, "workflow:a")
    async with whole_broker(valkey.url, Config()) as one, whole_broker(valkey.url, Config()) as other:
        mine = await ticket(one, made)
        async with await WsClient.connect(other.address, f"/ws/?ticket={mine}") as client:
            for channel, answer in (("workflow:a", "subscribed"), ("workflow:b", "error")):
                await client.send_json(type="subscribe", channel=channel)
                assert (await client.receive_json())["type"] == answer
            again = await WsClient.connect(one.address, f"/ws/?ticket={mine}")
            assert (await again.close()).code == 1008


async def test_a_ticket_is_revoked_with_its_key(valkey: Valkey) -> None:
    """A ticket that was made before its key was revoked opens nothing after it, and what it has opened is closed."""
    made = add(valkey)
    async with whole_broker(valkey.url, Config()) as broker:
        used, unused = await ticket(broker, made), await ticket(broker, made)
        open_socket = await WsClient.connect(broker.address, f"/ws/?ticket={used}")
        run_sync(valkey.client, revoke_key(LAYOUT, made.record.key_id))
        assert (await open_socket.wait_closed()).code == 4401
        await open_socket.kill()
        late = await WsClient.connect(broker.address, f"/ws/?ticket={unused}")
        assert (await late.close()).code == 1008


Use = Callable[[Tickets], Awaitable[object]]
MAKE_AND_TAKE: list[Use] = [
    lambda tickets: tickets.make(KeyRecord("0" * 64, "key_1", "acme")),
    lambda tickets: tickets.take("tkt_x"),
]


@pytest.mark.parametrize("use", MAKE_AND_TAKE)
async def test_a_store_that_does_not_answer(autojump_clock: MockClock, use: Use) -> None:
    """Nobody is held for longer than `PATIENCE`: whoever waits for a ticket can wait somewhere else."""

    async def silence(*_: object) -> object:
        await trio.sleep_forever()

    began = trio.current_time()
    with trio.fail_after(60), pytest.raises(KeysUnavailable):
        await use(Tickets(LAYOUT, silence, KeyCache(LAYOUT, silence, Counters())))
    assert trio.current_time() - began == PATIENCE


@pytest.mark.parametrize("use", MAKE_AND_TAKE)
async def test_a_store_that_is_away(use: Use) -> None:
    """Its absence is said to the client; it is no error of ours that would end the connection."""

    async def away(*_: object) -> object:
        raise LinkDown("away")

    with pytest.raises(KeysUnavailable, match="away"):
        await use(Tickets(LAYOUT, away, KeyCache(LAYOUT, away, Counters())))
