"""broadcast(): events from any program."""

import datetime
import json
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import redis

from broker import broadcast
from broker.config.model import History
from broker.publisher import Publisher, configure, encode_event, shared
from broker.store.drive import run_sync
from broker.store.history import history_since, settle_history
from broker.store.layout import Layout
from protocol.events import check_event
from tests.conftest import Valkey

CHANNEL = "workflow:my-wf"


@pytest.fixture
def publisher(valkey: Valkey) -> Iterator[Publisher]:
    """A publisher that knows no more than the server's address."""
    with Publisher(valkey.url) as made:
        yield made


@pytest.fixture
def heard(valkey: Valkey) -> Iterator[Any]:
    """What a subscriber of the channel hears, one message a call."""
    subscription = valkey.client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    subscription.subscribe(CHANNEL)
    subscription.get_message(timeout=5)
    yield lambda: subscription.get_message(timeout=5)["data"]
    subscription.close()


def test_event_as_subscribers_get_it(publisher: Publisher, heard: Any) -> None:
    """An event has type, channel, timestamp and data, and passes the brokers' check unchanged."""
    assert publisher.broadcast(CHANNEL, "node_status", {"node_id": "a", "output": {"text": "Hällo"}}) == 1
    payload = heard()
    event = json.loads(payload)
    assert isinstance(event.pop("timestamp"), float)
    assert event == {
        "type": "node_status",
        "channel": CHANNEL,
        "data": {"node_id": "a", "output": {"text": "Hällo"}},
    }
    assert check_event(payload, CHANNEL) is payload


def test_values_that_json_does_not_know() -> None:
    """Dates become ISO 8601, a Decimal keeps every digit, and None leaves data out."""
    data = {
        "at": datetime.datetime(2024, 1, 15, 10, 0, 0, 5, tzinfo=datetime.UTC),
        "day": datetime.date(2024, 1, 15),
        "price": [Decimal("0.10000000000000000000001"), Decimal("1E+3"), Decimal(-7)],
        "id": uuid.UUID(int=1),
        "tags": {"x"},
        1: "one",
    }
    payload = encode_event(CHANNEL, "t", data, 1.5)
    assert b'"price":[0.10000000000000000000001,1E+3,-7]' in payload
    shown = json.loads(payload)["data"]
    assert (shown["at"], shown["day"]) == ("2024-01-15T10:00:00.000005+00:00", "2024-01-15")
    assert (shown["id"], shown["tags"], shown["1"]) == ("00000000-0000-0000-0000-000000000001", ["x"], "one")
    assert "data" not in json.loads(encode_event(CHANNEL, "t", None, 1.5))


@pytest.mark.parametrize(
    ("channel", "event_type", "data", "says"),
    [
        ("", "t", None, "channel"),
        ("workflow", "t", None, "namespace"),
        ("workflow:\n", "t", None, "control characters"),
        ("control:acme", "state_change", None, "control plane"),
        ("signalbox:keys", "t", None, "control plane"),
        (CHANNEL, "ping", None, "ping"),
        (CHANNEL, 7, None, "type"),
        (CHANNEL, "t", {"price": Decimal("NaN")}, "NaN"),
        (CHANNEL, "t", "x" * 2**20, "bytes"),
        (CHANNEL, "t", json.loads("[" * 64 + "]" * 64), "nested"),
    ],
)
def test_what_no_broker_would_deliver(channel: str, event_type: Any, data: Any, says: str) -> None:
    """A publication that every broker would drop is a ValueError where it is made, with the reason."""
    with pytest.raises((ValueError, TypeError)) as caught:
        encode_event(channel, event_type, data, 0.0)
    assert says in str(caught.value) + str(caught.value.__cause__)


def test_data_without_a_json_form() -> None:
    """An object of any other class is a TypeError."""
    with pytest.raises(TypeError):
        encode_event(CHANNEL, "t", object(), 0.0)


def test_shared_connection_from_many_threads(valkey: Valkey, monkeypatch: pytest.MonkeyPatch, heard: Any) -> None:
    """The environment says where broadcast() publishes; web workers may all call it at once."""
    monkeypatch.setenv("SIGNALBOX_REDIS__URL", valkey.url)
    monkeypatch.setattr(shared.PROGRAM, "publisher", None)
    threads = [threading.Thread(target=broadcast, args=(CHANNEL, "t", number)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {json.loads(heard())["data"] for _ in threads} == set(range(20))
    configure(valkey.url, prefix="other/")
    assert broadcast(CHANNEL, "t") == 0
    configure(valkey.url)
    assert broadcast(CHANNEL, "t") == 1


def test_history_by_the_brokers_settings(valkey: Valkey, publisher: Publisher, heard: Any) -> None:
    """Where brokers keep history an event bears an offset, from which the later ones can be had again."""
    run_sync(valkey.client, settle_history(Layout(), {"workflow": History(100, 60)}))
    payloads = []
    for number in range(3):
        publisher.broadcast(CHANNEL, "t", number)
        payloads.append(heard())
    publisher.broadcast("epic:1", "t")
    assert valkey.client.keys("signalbox:history:*") == [f"signalbox:history:{CHANNEL}".encode()]
    offsets = [json.loads(payload)["offset"] for payload in payloads]
    recovered, missed = run_sync(valkey.client, history_since(Layout(), CHANNEL, offsets[0], 1 << 20))
    assert recovered
    assert missed == list(zip(offsets[1:], payloads[1:], strict=True))
    assert 0 < valkey.client.pttl(f"signalbox:history:{CHANNEL}") <= 60_000


def test_history_that_is_too_large(valkey: Valkey, heard: Any) -> None:
    """What was missed is read if its frames have no more bytes than asked for; otherwise none of it travels."""
    offsets = []
    with Publisher(valkey.url, history={"workflow": History(1000, 60)}) as publisher:
        for number in range(300):
            publisher.broadcast(CHANNEL, "t", "x" * 1000 + str(number))
            offsets.append(json.loads(heard())["offset"])
    _, missed = run_sync(valkey.client, history_since(Layout(), CHANNEL, offsets[0], 1 << 20))
    assert [offset for offset, _ in missed] == offsets[1:]
    size = sum(len(payload) + 10 for _, payload in missed)  # as frames
    assert run_sync(valkey.client, history_since(Layout(), CHANNEL, offsets[0], size)) == (True, missed)
    before = valkey.client.info("stats")["total_net_output_bytes"]
    assert run_sync(valkey.client, history_since(Layout(), CHANNEL, offsets[0], size - 1)) == (False, [])
    assert valkey.client.info("stats")["total_net_output_bytes"] - before < 20_000


@pytest.mark.parametrize("since", ["0-0", "1-0", "9" * 20 + "-0", "x", "1-1-1", "", "18446744073709551615-0"])
def test_history_that_does_not_reach_back(valkey: Valkey, since: str) -> None:
    """An offset that is not there, or is none, recovers nothing."""
    with Publisher(valkey.url, history={"workflow": History(10, 60)}) as publisher:
        publisher.broadcast(CHANNEL, "t")
    assert run_sync(valkey.client, history_since(Layout(), CHANNEL, since, 1 << 20)) == (False, [])


def test_user_that_may_only_publish(valkey: Valkey) -> None:
    """A Redis user without any right to read keys can broadcast."""
    valkey.client.acl_setuser("pub", enabled=True, passwords=["+x"], commands=["+publish", "+ping"], channels=["*"])
    try:
        with Publisher(valkey.url + "?username=pub&password=x") as publisher:
            assert publisher.broadcast(CHANNEL, "t") == 0
    finally:
        valkey.client.acl_deluser("pub")


def test_import_without_trio() -> None:
    """A web worker that only publishes never loads trio."""
    code = "import sys; from broker import broadcast, Publisher; print(*sorted(m for m in sys.modules if 'trio' in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_largest_event() -> None:
    """An event of exactly the bound is published, since brokers deliver it; one byte more is refused."""
    size = len(encode_event(CHANNEL, "t", "x", 1.0))
    assert len(encode_event(CHANNEL, "t", "x", 1.0, size)) == size
    with pytest.raises(ValueError, match=f"has {size} bytes, and brokers drop events above {size - 1}"):
        encode_event(CHANNEL, "t", "x", 1.0, size - 1)


def test_whose_connections_are_closed(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """A publisher closes the connections that it made, also when another takes its place, and no others."""
    connected = valkey.client.connection_pool.connection_kwargs
    monkeypatch.setattr(shared, "PROGRAM", type(shared.PROGRAM)())
    given = redis.Redis(unix_socket_path=connected["path"], client_name="given")
    with Publisher(given) as publisher:
        publisher.broadcast(CHANNEL, "t")
    assert _names(valkey)["given"] == 1
    given.close()
    configure(valkey.url + "?client_name=former")
    broadcast(CHANNEL, "t")
    former = shared.PROGRAM.publisher  # held, that it is not the garbage collector who closes it
    assert former is not None
    assert _names(valkey)["former"] == 1
    configure(valkey.url)
    deadline = time.monotonic() + 10
    while "former" in _names(valkey):  # the server learns of it a moment later
        assert time.monotonic() < deadline


def _names(valkey: Valkey) -> Counter[str]:
    """Count the connections that the server has, by their names."""
    return Counter(each["name"] for each in valkey.client.client_list())
