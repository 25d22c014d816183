"""Brokers and the agents that they hold."""

from broker.store.brokers import heartbeat, live_brokers, sign_off
from broker.store.presence import (
    TTL_MS,
    Presence,
    put_presence,
    read_presence,
    refresh_presence,
    remove_presence,
)
from tests.conftest import Valkey
from tests.store.helpers import LAYOUT, ORG, done, out_of_memory


def test_brokers_live_by_their_heartbeats(valkey: Valkey) -> None:
    """A broker is listed from its heartbeat until it signs off or was silent too long; dead ones are forgotten."""
    now = done(valkey, heartbeat(LAYOUT, "b1", {"host": "a b"}))
    done(valkey, heartbeat(LAYOUT, "b2", {}))
    valkey.client.hset(LAYOUT.brokers(), "silent", f"{now - 21_000} {{}}")
    valkey.client.hset(LAYOUT.brokers(), "dead", f"{now - 3_700_000} {{}}")
    brokers = done(valkey, live_brokers(LAYOUT))
    assert [(broker.broker_id, broker.info) for broker in brokers] == [("b1", {"host": "a b"}), ("b2", {})]
    done(valkey, sign_off(LAYOUT, "b1"))
    done(valkey, heartbeat(LAYOUT, "b2", {}))
    assert [broker.broker_id for broker in done(valkey, live_brokers(LAYOUT))] == ["b2"]
    assert valkey.client.hexists(LAYOUT.brokers(), "silent")
    assert not valkey.client.hexists(LAYOUT.brokers(), "dead")


def test_agents_of_live_brokers(valkey: Valkey) -> None:
    """Presence lists the agents of every live broker, and none of a dead one."""
    first, second = Presence("k1", "wf", 100), Presence("k2", None, 50, last_ack=60, silent=True)
    done(valkey, heartbeat(LAYOUT, "b1", {}))
    assert not done(valkey, put_presence(LAYOUT, ORG, "b1", {"s1": first, "s2": second, "s3": first}))
    assert done(valkey, put_presence(LAYOUT, ORG, "b1", {}))
    done(valkey, put_presence(LAYOUT, ORG, "dead", {"s9": first}))
    done(valkey, remove_presence(LAYOUT, ORG, "b1", ["s3"]))
    done(valkey, remove_presence(LAYOUT, ORG, "b1", []))
    present = done(valkey, read_presence(LAYOUT, ORG))
    assert [(item.session_id, item.broker_id, item.presence) for item in present] == [
        ("s2", "b1", second),
        ("s1", "b1", first),
    ]


def test_an_agent_that_was_handed_over(valkey: Valkey) -> None:
    """It is with the broker that was heard of last, in whatever order they stand."""
    for former, latter in (("b1", "b2"), ("b2", "b1")):
        valkey.client.flushall()
        now = done(valkey, heartbeat(LAYOUT, latter, {}))
        for broker_id in (former, latter):
            done(valkey, put_presence(LAYOUT, ORG, broker_id, {"s1": Presence("k1", "wf", 100)}))
        valkey.client.hset(LAYOUT.brokers(), former, f"{now - 1000} {{}}")
        [found] = done(valkey, read_presence(LAYOUT, ORG))
        assert found.broker_id == latter


def test_presence_while_memory_is_full(valkey: Valkey) -> None:
    """Else those who kill just then would be told that nobody is connected."""
    with out_of_memory(valkey):
        for silent in (False, True):
            done(valkey, heartbeat(LAYOUT, "b1", {}))
            done(valkey, put_presence(LAYOUT, ORG, "b1", {"s1": Presence("k1", "wf", 100, silent=silent)}))
            [found] = done(valkey, read_presence(LAYOUT, ORG))
            assert found.presence.silent is silent


def test_presence_expires_with_its_broker(valkey: Valkey) -> None:
    """No presence is without an expiry, and refreshing one that is gone says so."""
    assert not done(valkey, refresh_presence(LAYOUT, ORG, "b"))
    done(valkey, put_presence(LAYOUT, ORG, "b", {"s": Presence("k", None, 1)}))
    key = LAYOUT.presence(ORG, "b")
    assert 0 < valkey.client.pttl(key) <= TTL_MS
    valkey.client.pexpire(key, 1000)
    assert done(valkey, refresh_presence(LAYOUT, ORG, "b"))
    assert valkey.client.pttl(key) > 1000
    done(valkey, remove_presence(LAYOUT, ORG, "b"))
    assert valkey.client.exists(key) == 0
