import time

import structlog
import trio

from broker.store.drive import run_sync
from broker.store.key_record import KeyRecord
from broker.store.presence import PresentSession, read_presence
from broker.store.receipts import Delivery, Receipt, ReceiptSession, read_receipt
from tests.conftest import Valkey
from tests.control.broker import LAYOUT, ORG, Broker, add_key, publisher, running_broker
from tests.control.clients import acknowledge, eventually, opened, snapshot


def receipt(valkey: Valkey, message_id: str) -> Receipt:
    """Read a receipt that is there."""
    found = run_sync(valkey.client, read_receipt(LAYOUT, ORG, message_id))
    assert found is not None
    return found


async def only_session(valkey: Valkey, message_id: str, status: Delivery) -> ReceiptSession:
    """Wait until the only addressee of a message has this status."""

    def reached() -> ReceiptSession | None:
        sessions = receipt(valkey, message_id).sessions
        return sessions[0] if len(sessions) == 1 and sessions[0].status is status else None

    found = await eventually(reached)
    assert found is not None
    return found


def present(valkey: Valkey) -> tuple[PresentSession, ...]:
    """Read who is connected."""
    return run_sync(valkey.client, read_presence(LAYOUT, ORG))


async def test_addressees_and_their_acks(broker: Broker, valkey: Valkey) -> None:
    """Everybody gets a kill, but its receipt counts only who is bound to that workflow or to none."""
    bound_key, bound = add_key(valkey, "wf")
    free_key, free = add_key(valkey)
    other_key, _ = add_key(valkey, "elsewhere")
    async with (
        await broker.connect(bound_key) as one,
        await broker.connect(free_key) as two,
        await broker.connect(other_key) as three,
    ):
        for client in (one, two, three):
            await snapshot(client)
        message_id = publisher(valkey).kill(ORG, "wf").message_id
        for client in (one, two, three):
            assert (await client.receive_json())["message_id"] == message_id
            await acknowledge(client, message_id, int(time.time()))
        await eventually(lambda: broker.counters.acks == 3)

        def confirmed() -> bool:
            statuses = [each.status for each in receipt(valkey, message_id).sessions]
            return statuses == [Delivery.CONFIRMED] * 2

        await eventually(confirmed)
        found = receipt(valkey, message_id)
        assert {each.key_id for each in found.sessions} == {bound.key_id, free.key_id}
        assert found.brokers == {"b1": 2}
        assert all(each.elapsed_ms is not None and each.elapsed_ms < 5000 for each in found.sessions)


async def test_nobody_there_is_reported(broker: Broker, valkey: Valkey) -> None:
    """A broker whose sessions are none of a message's addressees says so, that nobody waits for it."""
    api_key, _ = add_key(valkey, "elsewhere")
    async with await broker.connect(api_key) as client:
        await snapshot(client)
        message_id = publisher(valkey).kill(ORG, "wf").message_id
        assert await eventually(lambda: receipt(valkey, message_id).brokers) == {"b1": 0}


async def test_never_acknowledged(valkey: Valkey) -> None:
    """Who does not ack is sent the message so many times, then unconfirmed with a diagnosis; a late ack counts."""
    api_key, record = add_key(valkey, "wf")
    with structlog.testing.capture_logs() as logs:
        await _never_acknowledge(valkey, api_key, record)
    (said,) = [line for line in logs if line["event"] == "an agent has never acknowledged a message"]
    assert (said["org"], said["workflow"], said["key_id"]) == (ORG, "wf", record.key_id)
    assert "wrong secret, or a clock off" in said["why"]


async def _never_acknowledge(valkey: Valkey, api_key: str, record: KeyRecord) -> None:
    assert record.secret_key is not None
    async with (
        running_broker(valkey, ack_timeout=0.05, ack_attempts=2) as broker,
        await broker.connect(api_key, record.secret_key) as client,
    ):
        await client.receive()
        message_id = publisher(valkey).kill(ORG, "wf").message_id
        copies = [opened(await client.receive(), api_key, record.secret_key) for _ in range(3)]
        assert {each["message_id"] for each in copies} == {message_id}
        found = await only_session(valkey, message_id, Delivery.UNCONFIRMED)
        assert found.diagnosis is not None
        assert "wrong secret, or a clock off" in found.diagnosis
        assert (broker.counters.control_resent, broker.counters.unconfirmed) == (2, 1)
        await acknowledge(client, message_id, int(time.time()))
        await only_session(valkey, message_id, Delivery.CONFIRMED)
        message_id = publisher(valkey).kill(ORG, "wf").message_id
        await client.receive()
        await acknowledge(client, message_id, int(time.time()), api_key, "wrong")
        found = await only_session(valkey, message_id, Delivery.UNCONFIRMED)
        assert found.diagnosis == "its acks are signed with a wrong secret"
        await acknowledge(client, message_id, int(time.time()) - 1000)
        found = await only_session(valkey, message_id, Delivery.CONFIRMED)
        assert found.diagnosis is not None
        assert found.diagnosis.startswith("clock is off by -100")


async def test_gone_before_it_acknowledged(broker: Broker, valkey: Valkey) -> None:
    """A session that ends owing an ack is gone, as far as anybody knows."""
    api_key, _ = add_key(valkey, "wf")
    async with await broker.connect(api_key) as client:
        await snapshot(client)
        message_id = publisher(valkey).kill(ORG, "wf").message_id
        await client.receive()
    await only_session(valkey, message_id, Delivery.GONE)


async def test_overdue_is_explained_at_once(valkey: Valkey) -> None:
    """At the first resend the receipt says what may be wrong; an ack clears that."""
    api_key, record = add_key(valkey, "wf")
    assert record.secret_key is not None
    async with (
        running_broker(valkey, ack_timeout=0.05, ack_attempts=5) as broker,
        await broker.connect(api_key, record.secret_key) as client,
    ):
        await client.receive()
        message_id = publisher(valkey).kill(ORG, "wf").message_id
        await client.receive()
        await eventually(lambda: any(each.diagnosis for each in receipt(valkey, message_id).sessions))
        found = await only_session(valkey, message_id, Delivery.PENDING)
        assert found.diagnosis is not None
        assert "wrong secret, or a clock off" in found.diagnosis
        await acknowledge(client, message_id, int(time.time()))
        assert (await only_session(valkey, message_id, Delivery.CONFIRMED)).diagnosis is None


async def test_an_id_that_is_not_pending_counts_nowhere(broker: Broker, valkey: Valkey) -> None:
    """An ack for a message that this very session does not wait for confirms nothing."""
    api_key, _ = add_key(valkey, "wf")
    other_key, _ = add_key(valkey, "wf2")
    async with await broker.connect(api_key) as client, await broker.connect(other_key) as other:
        await snapshot(client)
        await snapshot(other)
        await acknowledge(client, "made-up", int(time.time()))
        await eventually(lambda: broker.counters.acks_refused["unknown_message_id"] == 1)
        assert broker.counters.acks == 0


async def test_a_resume_stops_a_pause(valkey: Valkey) -> None:
    """Once a workflow is resumed its pause is not sent again, though it was never acknowledged."""
    api_key, _ = add_key(valkey, "wf")
    async with running_broker(valkey, ack_timeout=0.2) as broker, await broker.connect(api_key) as client:
        await snapshot(client)
        paused = publisher(valkey).pause(ORG, "wf").message_id
        publisher(valkey).resume(ORG, "wf")
        assert [(await client.receive_json())["state"] for _ in range(2)] == ["Paused", "Normal"]
        await client.silence(0.5)
        await acknowledge(client, paused, int(time.time()))
        await only_session(valkey, paused, Delivery.CONFIRMED)


async def test_learned_from_the_snapshot(broker: Broker, valkey: Valkey) -> None:
    """An agent that comes after the kill counts in its receipt, and can acknowledge it."""
    message_id = publisher(valkey).kill(ORG, "wf").message_id
    api_key, _ = add_key(valkey, "wf")
    async with await broker.connect(api_key) as client:
        await snapshot(client)
        assert (await client.receive_json())["message_id"] == message_id
        await only_session(valkey, message_id, Delivery.PENDING)
        await acknowledge(client, message_id, int(time.time()))
        await only_session(valkey, message_id, Delivery.CONFIRMED)


async def test_replayed_to_who_comes_back(broker: Broker, valkey: Valkey) -> None:
    """After the snapshot come the approvals, policies and keys of the last minutes, with their ids, and want acks."""
    api_key, _ = add_key(valkey, "wf")
    first = publisher(valkey).policy_invalidated(ORG, "p", 3).message_id
    second = (
        publisher(valkey).approval_resolved(ORG, "a", workflow_id="wf", execution_id="e", outcome="denied").message_id
    )
    for _ in range(2):
        async with await broker.connect(api_key) as client:
            await snapshot(client)
            replayed = [await client.receive_json() for _ in range(2)]
            assert [each["message_id"] for each in replayed] == [first, second]
            assert (await client.receive_json())["message_id"] == second


async def test_replayed_whatever_the_time_of_day(broker: Broker, valkey: Valkey) -> None:
    """A clock that is set right by an hour makes no recent message old."""
    api_key, _ = add_key(valkey, "wf")
    async with await broker.connect(api_key) as client:
        await snapshot(client)
    approval = publisher(valkey).approval_resolved(ORG, "a", workflow_id="wf", execution_id="e", outcome="denied")
    broker.clock.offset = 3600
    async with await broker.connect(api_key) as client:
        await snapshot(client)
        with trio.fail_after(5):
            assert (await client.receive_json())["message_id"] == approval.message_id


async def test_presence(valkey: Valkey) -> None:
    """Who is connected can be read by anybody, with silence and last acks, until the session or the broker ends."""
    api_key, record = add_key(valkey, "wf")
    async with running_broker(valkey, ping_interval=0.1) as broker:
        async with await broker.connect(api_key, answer_pings=False) as client:
            await snapshot(client)
            [found] = await eventually(lambda: present(valkey))
            assert (found.broker_id, found.presence.key_id, found.presence.workflow_id) == ("b1", record.key_id, "wf")
            assert found.presence.last_ack is None
            await eventually(lambda: present(valkey)[0].presence.silent)
            assert broker.counters.heartbeats_missed == 1
            message_id = publisher(valkey).kill(ORG, "wf").message_id
            await client.receive_type("state_change")
            await acknowledge(client, message_id, int(time.time()))
            await eventually(lambda: present(valkey)[0].presence.last_ack)
        await eventually(lambda: not present(valkey))
        async with await broker.connect(api_key, answer_pings=False) as client:
            await snapshot(client)
            await eventually(lambda: present(valkey))
            valkey.client.delete(LAYOUT.presence(ORG, "b1"))
            async with await broker.connect(api_key, answer_pings=False) as second:
                await snapshot(second)
                await eventually(lambda: len(present(valkey)) == 2)
    assert not present(valkey)


async def test_silent_for_too_long(valkey: Valkey) -> None:
    """A client that answers no pings is kept for silent_timeout seconds, then closed with 4408."""
    api_key, _ = add_key(valkey)
    async with (
        running_broker(valkey, ping_interval=0.1, silent_timeout=1) as broker,
        await broker.connect(api_key, answer_pings=False) as client,
    ):
        began = time.monotonic()
        closed = await client.wait_closed()
        assert closed.code == 4408
        assert time.monotonic() - began > 0.9


async def test_replayed_to_who_is_no_addressee(broker: Broker, valkey: Valkey) -> None:
    """An approval is sent again to everybody who comes back, but its receipt names only those whom it is for."""
    approval = publisher(valkey).approval_resolved(ORG, "a", workflow_id="wf", execution_id="e", outcome="approved")
    other_key, _ = add_key(valkey, "elsewhere")
    async with await broker.connect(other_key) as client:
        await snapshot(client)
        assert (await client.receive_json())["message_id"] == approval.message_id
        await broker.plane.services.receipts.settled()
        assert receipt(valkey, approval.message_id).sessions == ()


async def test_silence_that_ends(valkey: Valkey) -> None:
    """A client that speaks again, or that leaves, is silent no more."""
    api_key, _ = add_key(valkey)
    async with running_broker(valkey, ping_interval=0.1) as broker:
        async with await broker.connect(api_key, answer_pings=False) as client:
            await eventually(lambda: broker.counters.control_silent == 1)
            await client.send_json(type="ping")
            await eventually(lambda: broker.counters.control_silent == 0)
            await eventually(lambda: broker.counters.control_silent == 1)
        await eventually(lambda: broker.counters.control_sessions == 0)
        assert (broker.counters.control_silent, broker.counters.heartbeats_missed) == (0, 2)
