"""Receipts: what arrived where."""

import time

import pytest

from broker.store.apply import apply
from broker.store.receipts import (
    Addressee,
    Delivery,
    ReceiptStatus,
    acknowledge,
    deliver,
    is_complete,
    mark,
    read_receipt,
)
from protocol.control import ApprovalResolvedInput, PolicyInvalidatedInput
from protocol.states import Outcome, State
from tests.conftest import Valkey
from tests.store.helpers import LAYOUT, ORG, change, done, out_of_memory

NOW = int(time.time())


def test_receipt_over_two_brokers(valkey: Valkey) -> None:
    """A receipt tells each session's fate over all brokers, with who acted and how long it took."""
    killed = change(valkey, State.KILLED)
    message = killed.message_id
    assert done(valkey, deliver(LAYOUT, ORG, message, "b1", [Addressee("s1", "k1", "wf"), Addressee("s2", "k2")]))
    assert done(valkey, deliver(LAYOUT, ORG, message, "b2", []))
    elapsed = done(valkey, acknowledge(LAYOUT, ORG, message, "s1", NOW))
    assert elapsed is not None
    assert done(valkey, acknowledge(LAYOUT, ORG, message, "s1", NOW)) == elapsed
    assert done(valkey, mark(LAYOUT, ORG, message, "s2", Delivery.UNCONFIRMED, "never acknowledged: wrong secret?"))
    receipt = done(valkey, read_receipt(LAYOUT, ORG, message))
    assert receipt is not None
    assert (receipt.status, receipt.state, receipt.version, receipt.actor) == (
        ReceiptStatus.OPEN,
        State.KILLED,
        1,
        "ops",
    )
    assert (receipt.seq, receipt.issued_at, receipt.brokers) == (killed.seq, killed.ms, {"b1": 2, "b2": 0})
    first, second = receipt.sessions
    assert (first.status, first.elapsed_ms, first.broker, first.workflow_id) == (
        Delivery.CONFIRMED,
        elapsed,
        "b1",
        "wf",
    )
    assert (second.status, second.diagnosis, second.workflow_id) == (
        Delivery.UNCONFIRMED,
        "never acknowledged: wrong secret?",
        None,
    )


def test_receipt_while_memory_is_full(valkey: Valkey) -> None:
    """A kill gets through just then, and so does who was sent it, who confirmed it, and who did not."""
    with out_of_memory(valkey):
        message = change(valkey, State.KILLED).message_id
        assert done(valkey, deliver(LAYOUT, ORG, message, "b1", [Addressee("s1", "k1"), Addressee("s2", "k2")]))
        assert done(valkey, acknowledge(LAYOUT, ORG, message, "s1", NOW)) is not None
        assert done(valkey, mark(LAYOUT, ORG, message, "s2", Delivery.GONE))
        receipt = done(valkey, read_receipt(LAYOUT, ORG, message))
    assert receipt is not None
    assert (receipt.brokers, [each.status for each in receipt.sessions]) == (
        {"b1": 2},
        [Delivery.CONFIRMED, Delivery.GONE],
    )


def test_acknowledgement_before_its_delivery_is_written_down(valkey: Valkey) -> None:
    """Writes of one broker may overtake each other: the session is confirmed and complete in the end."""
    message = change(valkey, State.PAUSED).message_id
    done(valkey, acknowledge(LAYOUT, ORG, message, "s", NOW))
    done(valkey, deliver(LAYOUT, ORG, message, "b", [Addressee("s", "k")]))
    done(valkey, deliver(LAYOUT, ORG, message, "b", [Addressee("s", "k")]))
    done(valkey, mark(LAYOUT, ORG, message, "s", Delivery.GONE))
    receipt = done(valkey, read_receipt(LAYOUT, ORG, message))
    assert receipt is not None
    assert receipt.brokers == {"b": 1}
    assert [(item.status, item.key_id) for item in receipt.sessions] == [(Delivery.CONFIRMED, "k")]


@pytest.mark.parametrize(("skew", "diagnosed"), [(0, False), (290, False), (-400, True), (86400, True)])
def test_clock_that_is_off_is_diagnosed(valkey: Valkey, skew: int, diagnosed: bool) -> None:
    """An agent whose clock differs by more than 300 s from the server's is named with the difference."""
    message = change(valkey, State.KILLED).message_id
    done(valkey, acknowledge(LAYOUT, ORG, message, "s", int(time.time()) + skew))
    receipt = done(valkey, read_receipt(LAYOUT, ORG, message))
    assert receipt is not None
    said = receipt.sessions[0].diagnosis
    assert (said is not None) == diagnosed
    if said is not None:
        assert said.startswith("clock is off by ")


def test_receipt_that_is_gone(valkey: Valkey) -> None:
    """Nothing brings an expired receipt to life again, and every receipt expires."""
    message = change(valkey, State.KILLED).message_id
    key = LAYOUT.receipts(ORG, message)
    assert valkey.client.pttl(key) > 0
    valkey.client.delete(key)
    assert not done(valkey, deliver(LAYOUT, ORG, message, "b", [Addressee("s", "k")]))
    assert done(valkey, acknowledge(LAYOUT, ORG, message, "s", NOW)) is None
    assert not done(valkey, mark(LAYOUT, ORG, message, "s", Delivery.GONE))
    assert done(valkey, read_receipt(LAYOUT, ORG, message)) is None
    assert valkey.client.exists(key) == 0


def test_which_messages_have_receipts(valkey: Valkey) -> None:
    """An approval has a receipt, a policy and a resume have none."""
    approval = done(valkey, apply(LAYOUT, ORG, ApprovalResolvedInput("ap", "wf", "ex", Outcome.APPROVED)))
    policy = done(valkey, apply(LAYOUT, ORG, PolicyInvalidatedInput("p", 1)))
    resumed = change(valkey, State.NORMAL)
    receipt = done(valkey, read_receipt(LAYOUT, ORG, approval.message_id))
    assert receipt is not None
    assert (receipt.type, receipt.workflow_id, receipt.state) == ("approval_resolved", "wf", None)
    for other in (policy, resumed):
        assert done(valkey, read_receipt(LAYOUT, ORG, other.message_id)) is None


def test_when_there_is_nothing_more_to_wait_for(valkey: Valkey) -> None:
    """A receipt is complete when every broker has reported, or had the time to, and every session has settled."""
    message = change(valkey, State.PAUSED).message_id

    def complete(*silent: str, elapsed: float = 0.0, heard: int = 1) -> bool:
        receipt = done(valkey, read_receipt(LAYOUT, ORG, message))
        assert receipt is not None
        return is_complete(receipt, silent, elapsed, heard)

    assert not complete()
    assert complete(heard=0)
    assert complete(elapsed=1.1)
    done(valkey, deliver(LAYOUT, ORG, message, "b1", [Addressee("s1", "k1")]))
    assert not complete(elapsed=1.1)
    done(valkey, acknowledge(LAYOUT, ORG, message, "s1", NOW))
    assert complete()
    assert not complete(heard=2)
    assert not complete("b2", elapsed=1.1)
    change(valkey, State.NORMAL)
    assert complete("b2")
