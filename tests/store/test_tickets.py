"""Tickets in the store: used once, soon forgotten, never written down as they are."""

from broker.store.drive import run_sync
from broker.store.layout import Layout
from broker.store.tickets import MAX_CHARACTERS, make_ticket, take_ticket
from tests.conftest import Valkey

LAYOUT = Layout("t:")


def test_a_ticket_is_taken_once(valkey: Valkey) -> None:
    """Of two who present the same ticket one gets the key, the other nothing."""
    ticket = run_sync(valkey.client, make_ticket(LAYOUT, "ab" * 32, 30))
    assert [run_sync(valkey.client, take_ticket(LAYOUT, ticket)) for _ in range(2)] == ["ab" * 32, None]


def test_a_ticket_is_stored_as_a_hash_and_expires(valkey: Valkey) -> None:
    """Neither the ticket nor its key can be read from the store, and nothing is left of it after its lifetime."""
    ticket = run_sync(valkey.client, make_ticket(LAYOUT, "ab" * 32, 30))
    (name,) = valkey.client.keys("*")
    assert isinstance(name, bytes)
    assert name.startswith(b"t:signalbox:ticket:")
    assert ticket.encode() not in name
    assert 0 < valkey.client.ttl(name) <= 30
    valkey.client.pexpire(name, 0)
    assert run_sync(valkey.client, take_ticket(LAYOUT, ticket)) is None


def test_what_is_no_ticket_is_not_asked_for(valkey: Valkey) -> None:
    """Anything that cannot be a ticket is refused without a question to Redis."""
    before = valkey.client.info("commandstats").get("cmdstat_getdel", {"calls": 0})["calls"]
    for text in ("", "nr_live_key", "tkt_" + "x" * MAX_CHARACTERS):
        assert run_sync(valkey.client, take_ticket(LAYOUT, text)) is None
    assert valkey.client.info("commandstats").get("cmdstat_getdel", {"calls": 0})["calls"] == before
