"""When a receipt is complete, and when it is a confirmation."""

import time

import pytest

from broker.admin.receipts import Sighting
from broker.store import receipts
from broker.store.brokers import heartbeat
from broker.store.drive import run_sync
from broker.store.presence import Presence, put_presence
from broker.store.receipts import Addressee, Delivery, Receipt, ReceiptSession, ReceiptStatus, acknowledge, deliver
from protocol.states import State
from tests.admin.site import ORG, Site


def receipt(*statuses: Delivery) -> Receipt:
    """Return a receipt with a session for each of these."""
    sessions = tuple(
        ReceiptSession(str(number), "k", None, "b", status, None, None) for number, status in enumerate(statuses)
    )
    return Receipt("m", "state_change", "wf", State.KILLED, 1, None, 1, 0, ReceiptStatus.OPEN, None, {"b": 1}, sessions)


@pytest.mark.parametrize(
    ("statuses", "silent", "complete", "confirmed"),
    [
        ((), (), True, True),
        ((Delivery.CONFIRMED,), (), True, True),
        ((Delivery.CONFIRMED,), ("b2",), True, False),
        ((Delivery.CONFIRMED,), (), False, False),
        ((Delivery.CONFIRMED, Delivery.GONE), (), True, False),
        ((Delivery.CONFIRMED, Delivery.UNCONFIRMED), (), True, False),
    ],
)
def test_confirmed_is_every_agent(
    statuses: tuple[Delivery, ...], silent: tuple[str, ...], complete: bool, confirmed: bool
) -> None:
    """An agent that went away, or gave no answer, or whose broker said nothing, has not confirmed."""
    assert Sighting(receipt(*statuses), silent, complete).is_confirmed is confirmed


async def test_what_a_receipt_waits_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not complete until some broker has reported, none with agents is silent, and all sessions are settled."""
    monkeypatch.setattr(receipts, "GRACE", 3600.0)
    site.key()
    layout, client = site.broker.layout, site.valkey.client
    told = (await site.ask("POST", f"/api/v1/orgs/{ORG}/workflows/wf/kill")).json
    message_id = told["message_id"]

    async def seen() -> tuple[bool, list[str]]:
        found = (await site.ask("GET", told["receipts"])).json
        return found["complete"], found["silent_brokers"]

    assert await seen() == (False, [])
    run_sync(client, deliver(layout, ORG, message_id, "b1", []))
    assert await seen() == (True, [])
    run_sync(client, heartbeat(layout, "b2", {}))
    run_sync(client, put_presence(layout, ORG, "b2", {"s": Presence("k", "wf", 1)}))
    assert await seen() == (False, ["b2"])
    run_sync(client, deliver(layout, ORG, message_id, "b2", [Addressee("s", "k", "wf")]))
    assert await seen() == (False, [])
    run_sync(client, acknowledge(layout, ORG, message_id, "s", int(time.time())))
    assert await seen() == (True, [])
