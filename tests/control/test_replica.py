import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.control import replica as module
from broker.control.publication import Publication
from broker.control.replica import Replica, Verdict, known_workflow
from broker.store.snapshot import Position, Snapshot
from protocol.codec import decode_control_server
from protocol.control import InitialState, Workflow
from protocol.states import State
from tests.control.making import change, policy, snapshot, stored

WINDOW, TTL = 300.0, 3600.0


def load(replica: Replica, taken: Snapshot) -> None:
    """Have a replica begin with a snapshot."""
    workflows = {name: known_workflow(each) for name, each in taken.workflows.items()}
    replica.load(taken, workflows, [], now=0.0)


def loaded(seq: int = 0) -> Replica:
    """Return a replica that has read an empty organization up to `seq`."""
    replica = Replica("acme", WINDOW, TTL)
    load(replica, snapshot(seq))
    return replica


def entries(replica: Replica, bound: str | None = None) -> dict[str, Workflow]:
    """Return the workflows of the snapshot that a session would get."""
    found: dict[str, Workflow] = {}
    for part in replica.parts(bound):
        message = decode_control_server(part.payload)
        assert isinstance(message, InitialState)
        found |= {workflow.workflow_id: workflow for workflow in message.workflows}
    return found


def test_verdicts() -> None:
    """The next, a known one, one ahead, one of another store, and one of a store that lost its tail are told apart."""
    replica = loaded(5)
    found = [
        replica.judge(each)
        for each in (change(6), change(5), change(3), change(8), change(6, epoch="e2"), change(4, ms=999_999))
    ]
    assert found == [
        Verdict.NEXT,
        Verdict.KNOWN,
        Verdict.KNOWN,
        Verdict.AHEAD,
        Verdict.STRANGE,
        Verdict.STRANGE,
    ]
    assert Replica("acme", WINDOW, TTL).judge(change(1)) is Verdict.AHEAD


def test_first_entry_of_an_empty_store() -> None:
    """An organization in which nothing ever happened takes its first entry, whatever the epoch turns out to be."""
    replica = Replica("acme", WINDOW, TTL)
    load(replica, snapshot(0, epoch=None))
    assert replica.judge(change(1, epoch="new")) is Verdict.NEXT
    replica.take(change(1, epoch="new"))
    assert replica.position == Position("new", 1, 1001)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(list(State))), max_size=30))
def test_the_snapshot_is_the_newest_of_each(changes: list[tuple[str, State]]) -> None:
    """After any changes the snapshot holds each workflow once, in its newest state."""
    replica = loaded()
    newest: dict[str, State] = {}
    for seq, (workflow_id, state) in enumerate(changes, 1):
        replica.take(change(seq, state, workflow_id))
        newest[workflow_id] = state
        assert {name: each.state for name, each in entries(replica).items()} == newest


def test_bound_workflow_is_always_listed() -> None:
    """A key's own workflow is in the snapshot as Normal 0 until something is known of it."""
    replica = loaded()
    assert entries(replica, "mine") == {"mine": Workflow("mine", State.NORMAL, 0, None, 0)}
    replica.take(change(1, State.KILLED, "other"))
    assert set(entries(replica, "mine")) == {"mine", "other"}
    replica.take(change(2, State.KILLED, "mine"))
    assert entries(replica, "mine")["mine"].state is State.KILLED


def test_a_short_snapshot_is_one_message() -> None:
    """What fits into one message comes in one, also to who is bound to a workflow that never changed."""
    replica = loaded()
    for seq in range(1, 30):
        replica.take(change(seq, State.PAUSED, f"other-{seq}"))
        assert len(list(replica.parts("mine"))) == 1
        assert len(entries(replica, "mine")) == seq + 1


def test_a_long_snapshot_is_shared() -> None:
    """A snapshot that is long is made and signed once for all, beside which a workflow of one's own is a short one."""
    replica = loaded()
    for seq in range(1, 300):
        replica.take(change(seq, State.PAUSED, f"other-{seq}"))
    own, *shared = replica.parts("mine")
    assert shared == [*replica.parts("yours")][1:] == [*replica.parts("other-1")]
    assert len(own.payload) < 200
    assert len(entries(replica, "mine")) == 300


def test_asked_to_acknowledge() -> None:
    """Killed and Paused are sent as messages to who comes later, while they are in force and their receipts open."""
    replica = Replica("acme", WINDOW, TTL)
    workflows = {
        "open": stored("open", State.KILLED, 4, "m1", at_ms=10_000),
        "closed": stored("closed", State.KILLED, 2, "m2", at_ms=10_000),
        "normal": stored("normal", State.NORMAL, 2, "m3", at_ms=10_000),
    }
    load(replica, snapshot(9, workflows, {"open": "m1", "normal": "m0"}))
    [asked] = replica.to_be_acked(None, 20_000)
    assert (asked.message_id, asked.state, asked.workflow_id) == ("m1", State.KILLED, "open")
    assert replica.to_be_acked("normal", 20_000) == []
    assert replica.to_be_acked(None, 10_000 + int(TTL * 1000)) == []
    live = change(10, State.PAUSED, "normal")
    replica.take(live)
    assert replica.to_be_acked("normal", 20_000) == [live]


def test_replay_window() -> None:
    """What no snapshot holds is kept for the window, and it is known from where on nothing is missing."""
    replica = loaded()
    for seq in range(1, 5):
        replica.take(policy(seq, ms=seq * 100_000))
    assert [each.seq for each in replica.recent(400_000)] == [1, 2, 3, 4]
    assert [each.seq for each in replica.recent(650_000)] == [4]
    assert [each.seq for each in replica.missed_since(2, 200_000) or ()] == [3, 4]
    replica.take(policy(5, ms=500_000))
    assert replica.missed_since(0, 0) is None
    assert [each.seq for each in replica.missed_since(1, 100_000) or ()] == [2, 3, 4, 5]


def test_what_was_before_the_window_is_not_known() -> None:
    """A replica that begins with a snapshot knows of approvals from the window before it on, and says so."""
    replica = Replica("acme", WINDOW, TTL)
    window = int(WINDOW * 1000)
    taken = Snapshot(Position("e1", 5, 900_000), 1_000_000, {}, {}, 0, 0)
    replica.load(taken, {}, [policy(4, ms=800_000)], now=0.0)
    assert replica.missed_since(2, 1_000_000 - window - 1) is None
    assert replica.missed_since(2, 0) is None
    assert [each.seq for each in replica.missed_since(2, 1_000_000 - window) or ()] == [4]
    assert replica.missed_since(5, 0) == []


def test_an_entry_of_a_newer_version() -> None:
    """A message that this version does not know takes its place in the log and changes nothing."""
    replica = loaded()
    unknown = Publication("e1", 1, 1001, b'{"type":"lease_ended","organization_id":"acme"}')
    assert replica.judge(unknown) is Verdict.NEXT
    replica.take(unknown)
    assert replica.judge(change(2)) is Verdict.NEXT
    assert (entries(replica), replica.recent(0)) == ({}, [])


def test_what_was_read_beyond_the_snapshot() -> None:
    """Messages that were made between the reading of the snapshot and of the log come later, and then once."""
    replica = Replica("acme", WINDOW, TTL)
    replica.load(snapshot(1), {}, [policy(1, 1001), policy(2, 1002)], now=0.0)
    assert [each.seq for each in replica.recent(0)] == [1]
    replica.take(policy(2, 1002))
    assert [each.seq for each in replica.missed_since(0, 10**13) or ()] == [1, 2]


def test_a_receipt_of_another_message() -> None:
    """A workflow whose open receipt is of an older message is not asked about: nobody could say which is meant."""
    replica = Replica("acme", WINDOW, TTL)
    load(replica, snapshot(9, {"wf": stored("wf", State.KILLED, 4, "m1", at_ms=10_000)}, {"wf": "m0", "gone": "m2"}))
    assert replica.to_be_acked(None, 20_000) == replica.to_be_acked("wf", 20_000) == []


def test_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is replayed within the window, so much of it is kept, and it is known that the rest is not."""
    monkeypatch.setattr(module, "MAX_REPLAYED", 3)
    replica = loaded()
    for seq in range(1, 6):
        replica.take(policy(seq, ms=seq))
    assert [each.seq for each in replica.recent(5)] == [3, 4, 5]
    assert [each.seq for each in replica.missed_since(2, 10**13) or ()] == [3, 4, 5]
    assert replica.missed_since(1, 0) is None


def test_messages_of_a_log_that_is_no_more() -> None:
    """A replica that begins anew replays what the new log holds, and nothing of the one before."""
    replica = loaded()
    replica.take(policy(1, ms=1000))
    replica.load(snapshot(3, epoch="e2"), {}, [policy(3, ms=1003)], now=0.0)
    assert [each.seq for each in replica.recent(0)] == [3]
