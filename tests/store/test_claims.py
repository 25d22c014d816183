"""Plain publications without an id: exactly once over brokers that heard different subsets of them."""

from collections import deque
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.exceptions import RedisError

from broker.store.applied import Applied, Status
from broker.store.limits import LogLimits
from broker.store.replies import text
from broker.store.snapshot import read_snapshot
from protocol.states import State
from tests.conftest import Valkey
from tests.store.helpers import LAYOUT, ORG, change, done, heard_by, now_ms, out_of_memory, tick, with_key

POLICY = b'{"type":"policy_invalidated","policy_id":"p","new_version":2}'
KILL = b'{"type":"state_change","workflow_id":"wf","state":"killed"}'
PAUSE = b'{"type":"state_change","workflow_id":"wf","state":"paused"}'
RESUME = b'{"type":"state_change","workflow_id":"wf","state":"resumed"}'


@attrs.define
class Listener:
    """A broker: since when it listens, and what it has heard but not yet handed in."""

    name: str
    since_ms: int
    generation: int = 1
    waiting: deque[tuple[int, int, int]] = attrs.field(factory=deque)

    def hear(self, after_ms: int) -> None:
        """Hear one, of which a time is known that it was published after."""
        self.waiting.append((self.since_ms, self.generation, after_ms))

    def hand_in(self, valkey: Valkey) -> int:
        """Hand in the next one; returns how many were applied by that."""
        since, generation, after = self.waiting.popleft()
        heard = heard_by(valkey, POLICY, self.name, since, after_ms=after, generation=generation)
        return heard.status is Status.APPLIED

    def reconnect(self, valkey: Valkey) -> None:
        """Begin to listen anew, with whatever is not handed in yet."""
        self.since_ms = tick(valkey)
        self.generation += 1


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
                if data.draw(st.booleans(), "reconnects"):
                    broker.reconnect(valkey)
                broker.hear(data.draw(st.sampled_from([broker.since_ms, now_ms(valkey)]), "published after"))
            for broker in data.draw(st.permutations(brokers), "order"):
                for _ in range(data.draw(st.integers(0, len(broker.waiting)), "handed in")):
                    applied += broker.hand_in(valkey)
        for broker in data.draw(st.permutations(brokers), "order"):
            if broker is brokers[0] or data.draw(st.booleans(), "hands in the rest"):
                while broker.waiting:
                    applied += broker.hand_in(valkey)
        assert applied == published
        if len(brokers) > 1 and data.draw(st.booleans(), "first dies"):
            # The next one must have handed in all by now, to be the one that vouches for the rest.
            brokers = [broker for broker in brokers[1:] if not broker.waiting] or brokers


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["publish", "join", "hand in", "reconnect", "die"]), st.integers(0, 5)), max_size=30
    )
)
def test_nothing_is_applied_twice(valkey: Valkey, steps: list[tuple[str, int]]) -> None:
    """Whoever joins, dies, reconnects or lags at whatever moment: never more applications than publications."""
    valkey.client.flushall()
    with_key(valkey)
    published = applied = joined = 0
    brokers: list[Listener] = []
    for step, which in steps:
        broker = brokers[which % len(brokers)] if brokers else None
        if step == "publish":
            published += 1
            for listener in brokers:
                listener.hear(now_ms(valkey) if which else listener.since_ms)
        elif step == "join":
            joined += 1
            brokers.append(Listener(f"b{joined}", now_ms(valkey)))
        elif broker is not None and step == "die":
            brokers.remove(broker)
        elif broker is not None and step == "reconnect":
            broker.reconnect(valkey)
        elif broker is not None and broker.waiting:
            applied += broker.hand_in(valkey)
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
    """What was published after an application is another publication, also for one that has missed the one applied."""
    with_key(valkey)
    start = now_ms(valkey) - 60_000
    for serial in (1, 2):
        heard_by(valkey, PAUSE, "well", start, serial)
    heard_by(valkey, PAUSE, "deaf", start, 1)
    later = tick(valkey)
    assert heard_by(valkey, PAUSE, "well", start, 2, after_ms=later).status is Status.DUPLICATE
    assert heard_by(valkey, PAUSE, "deaf", start, 2, after_ms=later).status is Status.APPLIED
    assert heard_by(valkey, PAUSE, "well", start, 3, after_ms=later).status is Status.DUPLICATE


def test_broker_that_stood_still_applies_nothing_again(valkey: Valkey) -> None:
    """However late one presents what it was sent while it stood still, and however much of it: nothing is undone."""
    with_key(valkey)
    start = now_ms(valkey) - 4_000_000
    stood_still = tick(valkey)
    for _ in range(3):
        assert heard_by(valkey, RESUME, "quick", start, after_ms=tick(valkey)).status is Status.APPLIED
    change(valkey, State.PAUSED)
    pass_by(valkey, 3_000_000)
    for _ in range(3):
        late = heard_by(valkey, RESUME, "slow", start, heard_ms=tick(valkey), after_ms=stood_still - 3_000_000)
        assert late.status is Status.DUPLICATE


def pass_by(valkey: Valkey, ms: int) -> None:
    """Let time pass for claims of publications without an id: all that they remember happened longer ago."""
    for key in valkey.client.keys(LAYOUT.seen(ORG, "*")):
        for field in map(text, valkey.client.hkeys(key)):
            if field.startswith("at:"):
                valkey.client.hincrby(key, field, -ms)


def forgotten(valkey: Valkey, after_ms: int) -> Callable[[bytes], Applied]:
    """Forget all claims; returns what hands in publications from before that, as a broker that stood still since."""
    keys = [*valkey.client.keys(LAYOUT.seen(ORG, "*")), *valkey.client.keys(LAYOUT.claim(ORG, "*", "*", "*"))]
    for key in keys:
        valkey.client.delete(key)
    limits = LogLimits(retention=0.001)
    tick(valkey)
    return lambda payload: heard_by(valkey, payload, "slow", after_ms - 60_000, after_ms=after_ms, limits=limits)


@pytest.mark.parametrize("message_id", [b"", b',"message_id":"m"'])
def test_nothing_is_undone_when_claims_are_forgotten(valkey: Valkey, message_id: bytes) -> None:
    """One that stood still for longer than claims are kept presents a resume and a pause that were overtaken."""
    with_key(valkey)
    stood_still = tick(valkey)
    resume, pause = (payload[:-1] + message_id + b"}" for payload in (RESUME, PAUSE))
    heard_by(valkey, resume, "quick")
    change(valkey, State.PAUSED)
    assert forgotten(valkey, stood_still)(resume).status is Status.LATE
    change(valkey, State.NORMAL)
    assert forgotten(valkey, stood_still)(pause).status is Status.LATE


def test_late_publication_that_nobody_applied(valkey: Valkey) -> None:
    """However late: where a workflow has not changed since, whatever was published about it is applied."""
    with_key(valkey)
    change(valkey, State.FLAGGED)
    stood_still = tick(valkey)
    assert forgotten(valkey, stood_still)(PAUSE).status is Status.APPLIED
    assert forgotten(valkey, tick(valkey))(RESUME).status is Status.APPLIED
    assert forgotten(valkey, stood_still)(POLICY).status is Status.APPLIED


def test_late_kill(valkey: Valkey) -> None:
    """A kill that nobody applied is applied over whatever was decided since; one that force has left stays away."""
    with_key(valkey)
    stood_still = tick(valkey)
    change(valkey, State.NORMAL)
    assert forgotten(valkey, stood_still)(KILL).status is Status.APPLIED
    assert forgotten(valkey, stood_still)(KILL).status is Status.LATE
    change(valkey, State.NORMAL, force=True)
    assert forgotten(valkey, stood_still)(KILL).status is Status.LATE


def test_the_same_again_after_a_reconnect(valkey: Valkey) -> None:
    """What a broker hears anew is not what it heard before its link broke and hands in only now."""
    with_key(valkey)
    long_ago, after = now_ms(valkey) - 60_000, now_ms(valkey)
    anew = tick(valkey)
    for payload, since, generation in ((PAUSE, long_ago, 1), (RESUME, anew, 2), (PAUSE, anew, 2)):
        heard = heard_by(valkey, payload, "a", since, heard_ms=anew, after_ms=after, generation=generation)
        assert heard.status is Status.APPLIED


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


def test_hundreds_of_claimants(valkey: Valkey) -> None:
    """A payload that is published for months remembers the latest claimants, and who is forgotten is not confused."""
    with_key(valkey)
    start = now_ms(valkey)
    for number in range(600):
        after = tick(valkey)
        assert heard_by(valkey, POLICY, f"b{number}", after, after_ms=after).status is Status.APPLIED
        if number % 100 == 0:
            assert heard_by(valkey, POLICY, "old", start, after_ms=after).status is Status.DUPLICATE
    after = tick(valkey)
    assert heard_by(valkey, POLICY, "old", start, after_ms=after).status is Status.APPLIED
    assert heard_by(valkey, POLICY, "b599", after, after_ms=after).status is Status.DUPLICATE
    (key,) = valkey.client.keys(LAYOUT.seen(ORG, "*"))
    assert valkey.client.hlen(key) < 64 + 3 * 256 + 5


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
    """Redis at its memory limit refuses policies, but takes a kill, whole, and hears who presents it late."""
    with_key(valkey)
    change(valkey, State.NORMAL)
    with out_of_memory(valkey):
        assert heard_by(valkey, KILL, "a").status is Status.APPLIED
        assert heard_by(valkey, KILL, "b").status is Status.DUPLICATE
        assert change(valkey, State.KILLED, workflow="new").status is Status.APPLIED
    snapshot = done(valkey, read_snapshot(LAYOUT, ORG))
    assert (snapshot.seq, set(snapshot.open_receipts)) == (3, {"wf", "new"})
