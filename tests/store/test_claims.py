"""Plain publications without an id: exactly once over brokers that heard different subsets of them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.exceptions import RedisError

from broker.store.applied import Status
from broker.store.snapshot import read_snapshot
from protocol.states import State
from tests.conftest import Valkey
from tests.store.helpers import LAYOUT, ORG, change, done, heard_by, now_ms, tick, with_key

POLICY = b'{"type":"policy_invalidated","policy_id":"p","new_version":2}'
KILL = b'{"type":"state_change","workflow_id":"wf","state":"killed"}'
PAUSE = b'{"type":"state_change","workflow_id":"wf","state":"paused"}'


def rest(valkey: Valkey) -> None:
    """Let the window pass in which identical publications are told apart: set back when each payload was last used."""
    for key in valkey.client.keys(LAYOUT.seen(ORG, "*")):
        valkey.client.hincrby(key, "used", -10_001)


@attrs.define
class Listener:
    """A broker: since when it listens, and what it has heard but not yet handed in."""

    name: str
    since_ms: int
    waiting: int = 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_publication_is_applied_exactly_once(valkey: Valkey, data: Any) -> None:
    """Brokers come and go, hand in late and in any order; as long as one has handed in all, each is applied once."""
    valkey.client.flushall()
    with_key(valkey)
    published = applied = 0
    brokers = [Listener("b0", now_ms(valkey))]
    for number in range(1, 1 + data.draw(st.integers(1, 4), "rounds")):
        for _ in range(data.draw(st.integers(0, 2), "joining")):
            brokers.append(Listener(f"b{number}.{len(brokers)}", tick(valkey)))
        for _ in range(data.draw(st.integers(0, 4), "publications")):
            published += 1
            for broker in brokers:
                broker.waiting += 1
            for broker in data.draw(st.permutations(brokers), "order"):
                for _ in range(data.draw(st.integers(0, broker.waiting), "handed in")):
                    broker.waiting -= 1
                    applied += heard_by(valkey, POLICY, broker.name, broker.since_ms).status is Status.APPLIED
        for broker in data.draw(st.permutations(brokers), "order"):
            if broker is brokers[0] or data.draw(st.booleans(), "hands in the rest"):
                while broker.waiting:
                    broker.waiting -= 1
                    applied += heard_by(valkey, POLICY, broker.name, broker.since_ms).status is Status.APPLIED
        assert applied == published
        if len(brokers) > 1 and data.draw(st.booleans(), "first dies"):
            # The next one must have handed in all by now, to be the one that vouches for the rest.
            brokers = [broker for broker in brokers[1:] if not broker.waiting] or brokers


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.tuples(st.sampled_from(["publish", "join", "hand in", "die"]), st.integers(0, 5)), max_size=30)
)
def test_nothing_is_applied_twice(valkey: Valkey, steps: list[tuple[str, int]]) -> None:
    """Whoever joins, dies or lags at whatever moment: never more applications than publications."""
    valkey.client.flushall()
    with_key(valkey)
    published = applied = joined = 0
    brokers: list[Listener] = []
    for step, which in steps:
        broker = brokers[which % len(brokers)] if brokers else None
        if step == "publish":
            published += 1
            for listener in brokers:
                listener.waiting += 1
        elif step == "join":
            joined += 1
            brokers.append(Listener(f"b{joined}", now_ms(valkey)))
        elif broker is not None and step == "die":
            brokers.remove(broker)
        elif broker is not None and broker.waiting:
            broker.waiting -= 1
            applied += heard_by(valkey, POLICY, broker.name, broker.since_ms).status is Status.APPLIED
    assert applied <= published


def test_kill_in_doubt_is_applied(valkey: Valkey) -> None:
    """One that began to listen while a kill was being applied, and then hands in the next, does not lose it."""
    with_key(valkey)
    joined = now_ms(valkey)
    tick(valkey)
    heard_by(valkey, KILL, "old", joined - 60_000)
    change(valkey, State.NORMAL, force=True)
    assert heard_by(valkey, KILL, "new", joined).status is Status.APPLIED


def test_kill_in_force_is_not_applied_again(valkey: Valkey) -> None:
    """The same doubt about a kill that is in force changes nothing."""
    with_key(valkey)
    joined = now_ms(valkey)
    heard_by(valkey, KILL, "old", joined - 60_000)
    assert heard_by(valkey, KILL, "new", joined).status is Status.DUPLICATE


def test_late_broker_does_not_undo_a_resume(valkey: Valkey) -> None:
    """A broker that has listened for long and hands a pause in late is not in doubt: the resume in between stays."""
    with_key(valkey)
    long_ago = now_ms(valkey) - 60_000
    heard_by(valkey, PAUSE, "quick", long_ago)
    change(valkey, State.NORMAL)
    assert heard_by(valkey, PAUSE, "slow", long_ago).status is Status.DUPLICATE


def test_new_broker_does_not_undo_a_resume(valkey: Valkey) -> None:
    """A broker that has just begun to listen, and presents late what it heard when it was applied, undoes nothing."""
    with_key(valkey)
    joined = now_ms(valkey)
    tick(valkey)
    heard_by(valkey, PAUSE, "quick", joined - 60_000)
    heard = now_ms(valkey)
    change(valkey, State.NORMAL)
    assert heard_by(valkey, PAUSE, "new", joined, heard_ms=heard).status is Status.DUPLICATE


def test_new_broker_is_in_doubt_of_what_it_hears_clearly_later(valkey: Valkey) -> None:
    """Heard more than a quarter of a second after the application, it may be the next publication: it is applied."""
    with_key(valkey)
    joined = now_ms(valkey)
    tick(valkey)
    heard_by(valkey, PAUSE, "quick", joined - 60_000)
    later = now_ms(valkey) + 300
    change(valkey, State.NORMAL)
    assert heard_by(valkey, PAUSE, "new", joined, heard_ms=later).status is Status.APPLIED


def test_broker_that_missed_one_is_not_behind_for_ever(valkey: Valkey) -> None:
    """After ten quiet seconds everybody counts anew; only what was handed in last is still known as such."""
    with_key(valkey)
    start = now_ms(valkey) - 60_000
    for serial in (1, 2):
        heard_by(valkey, PAUSE, "well", start, serial)
    heard_by(valkey, PAUSE, "deaf", start, 1)
    rest(valkey)
    assert heard_by(valkey, PAUSE, "well", start, 2).status is Status.DUPLICATE
    assert heard_by(valkey, PAUSE, "deaf", start, 2).status is Status.APPLIED
    assert heard_by(valkey, PAUSE, "well", start, 3).status is Status.DUPLICATE


def test_hundreds_of_identical_publications(valkey: Valkey) -> None:
    """Counting goes on beyond the times of application that are remembered."""
    with_key(valkey)
    start = now_ms(valkey)
    for _ in range(150):
        assert heard_by(valkey, POLICY, "a", start).status is Status.APPLIED
        assert heard_by(valkey, POLICY, "b", start).status is Status.DUPLICATE
    late = tick(valkey)
    assert heard_by(valkey, POLICY, "c", late).status is Status.APPLIED
    (key,) = valkey.client.keys(LAYOUT.seen(ORG, "*"))
    assert valkey.client.hlen(key) < 80


@contextlib.contextmanager
def out_of_memory(valkey: Valkey) -> Iterator[None]:
    """Let the server refuse whatever needs memory."""
    valkey.client.config_set("maxmemory", "1")
    try:
        yield
    finally:
        valkey.client.config_set("maxmemory", "0")


def test_failed_step_claims_nothing(valkey: Valkey) -> None:
    """A publication that the server refused to write is not claimed: the same broker's next try applies it."""
    with_key(valkey)
    with out_of_memory(valkey):
        for _ in range(2):
            with pytest.raises(RedisError, match="maxmemory"):
                heard_by(valkey, POLICY, "a", serial=1)
    assert heard_by(valkey, POLICY, "a", serial=1).status is Status.APPLIED
    assert done(valkey, read_snapshot(LAYOUT, ORG)).seq == 1


def test_kill_gets_through_when_memory_is_full(valkey: Valkey) -> None:
    """Redis at its memory limit refuses policies, but takes a kill, whole."""
    with_key(valkey)
    change(valkey, State.NORMAL)
    with out_of_memory(valkey):
        assert heard_by(valkey, KILL, "a").status is Status.APPLIED
        assert change(valkey, State.KILLED, workflow="new").status is Status.APPLIED
    snapshot = done(valkey, read_snapshot(LAYOUT, ORG))
    assert (snapshot.seq, set(snapshot.open_receipts)) == (3, {"wf", "new"})
    assert heard_by(valkey, KILL, "b").status is Status.DUPLICATE
