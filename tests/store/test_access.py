"""What a Redis user needs who may do no more than he must."""

from collections.abc import Iterator

import pytest
from redis.exceptions import NoPermissionError

from broker import Publisher
from broker.store.brokers import heartbeat
from broker.store.keys import add_key, list_keys, revoke_key, rotate_key
from broker.store.presence import Presence, put_presence, read_presence
from broker.store.receipts import Addressee, acknowledge, deliver, read_receipt
from broker.store.restore import restore
from broker.store.schema import check_schema
from broker.store.snapshot import read_snapshot
from tests.conftest import Valkey
from tests.store.helpers import LAYOUT, ORG

RIGHTS = ["+@read", "+@write", "+@scripting", "+@connection", "+publish", "+time", "-@dangerous"]


@pytest.fixture
def confined(valkey: Valkey) -> Iterator[Publisher]:
    """A user who may touch what begins with ``signalbox:``, keys and channels, and nothing dangerous."""
    valkey.client.acl_setuser(
        "confined",
        enabled=True,
        reset=True,
        reset_channels=True,
        passwords=["+x"],
        commands=RIGHTS,
        keys=["signalbox:*"],
        channels=["signalbox:*"],
    )
    with Publisher(valkey.url + "?username=confined&password=x") as publisher:
        yield publisher
    valkey.client.acl_deluser("confined")


def test_rights_that_suffice(confined: Publisher) -> None:
    """Everything works for a user who is confined to the product's own names."""
    run = confined.run
    run(check_schema(LAYOUT))
    made = run(add_key(LAYOUT, ORG)).record
    run(rotate_key(LAYOUT, made.key_id))
    run(revoke_key(LAYOUT, made.key_id))
    assert len(run(list_keys(LAYOUT))) == 1
    killed = confined.kill(ORG, "wf")
    snapshot = run(read_snapshot(LAYOUT, ORG))
    run(restore(LAYOUT, ORG, snapshot.workflows.values(), snapshot.position))
    run(deliver(LAYOUT, ORG, killed.message_id, "b", [Addressee("s", "k")]))
    run(acknowledge(LAYOUT, ORG, killed.message_id, "s", 0))
    assert run(read_receipt(LAYOUT, ORG, killed.message_id)) is not None
    run(heartbeat(LAYOUT, "b", {}))
    run(put_presence(LAYOUT, ORG, "b", {"s": Presence("k", None, 1)}))
    assert len(run(read_presence(LAYOUT, ORG))) == 1


def test_events_need_a_channel_of_their_own(confined: Publisher) -> None:
    """That user may not publish events: those channels are not the product's own."""
    with pytest.raises(NoPermissionError):
        confined.broadcast("workflow:wf", "t")
