"""What a broker does for a store that lost something."""

import json

import attrs
import pytest

from broker.store.apply import apply
from broker.store.log import parse_live, read_log
from broker.store.receipts import read_receipt
from broker.store.restore import Restored, restore
from broker.store.snapshot import Position, Snapshot, StoredWorkflow, read_snapshot
from protocol.control import PolicyInvalidatedInput
from protocol.states import State
from tests.conftest import Valkey
from tests.store.helpers import LAYOUT, ORG, change, done, out_of_memory, tick

HOSTILE = 'x","message_id":"y","updated_at":7,"actor":null,"at":1} \\ "\n\u2028'


def snapshot(valkey: Valkey) -> Snapshot:
    """What a broker knows."""
    return done(valkey, read_snapshot(LAYOUT, ORG))


def restored(valkey: Valkey, known: Snapshot) -> Restored:
    """Restore as a broker that knows just that."""
    return done(valkey, restore(LAYOUT, ORG, known.workflows.values(), known.position))


def state_of(valkey: Valkey, workflow: str = "wf") -> tuple[State, int]:
    """What the store holds, as clients see it."""
    found = snapshot(valkey).workflows[workflow].workflow
    return found.state, found.version


class Replica:
    """The store as it was, which a lagging replica that is promoted makes it again."""

    def __init__(self, valkey: Valkey) -> None:
        self.valkey = valkey
        self.dumps = {key: valkey.client.dump(key) or b"" for key in valkey.client.keys("*")}

    def promote(self) -> None:
        """Let the store be this again."""
        self.valkey.client.flushall()
        for key, value in self.dumps.items():
            self.valkey.client.restore(key, 0, value)
        tick(self.valkey)


def lose_everything(valkey: Valkey) -> None:
    """Empty the store, which takes longer than the millisecond by which changes are told apart."""
    valkey.client.flushall()
    tick(valkey)


def test_intact_store_is_left_alone(valkey: Valkey) -> None:
    """Without a loss a restore changes nothing, not even the epoch."""
    change(valkey, State.KILLED, reason=HOSTILE)
    change(valkey, State.PAUSED, workflow="other")
    known = snapshot(valkey)
    change(valkey, State.NORMAL, force=True)
    before = snapshot(valkey)
    result = restored(valkey, known)
    assert (result.new_epoch, result.changed) == (False, ())
    assert result.position == before.position
    assert attrs.evolve(snapshot(valkey), now_ms=0) == attrs.evolve(before, now_ms=0)


def test_what_was_lost_is_given_back_while_memory_is_full(valkey: Valkey) -> None:
    """A promoted replica at its memory limit takes the kill that it missed; so much it has held before."""
    change(valkey, State.NORMAL)
    replica = Replica(valkey)
    change(valkey, State.KILLED)
    known = snapshot(valkey)
    replica.promote()
    with out_of_memory(valkey):
        assert restored(valkey, known).changed == ("wf",)
    assert state_of(valkey) == (State.KILLED, 2)


def test_empty_store_gets_everything_back(valkey: Valkey) -> None:
    """A store that restarted without its data knows every workflow again, as it was, under a new epoch."""
    change(valkey, State.KILLED, reason=HOSTILE)
    change(valkey, State.NORMAL, workflow="calm", version=2**52)
    known = snapshot(valkey)
    lose_everything(valkey)
    result = restored(valkey, known)
    assert result.new_epoch
    assert set(result.changed) == {"wf", "calm"}
    after = snapshot(valkey)
    assert after.workflows == known.workflows
    assert after.position == result.position
    assert after.epoch != known.epoch
    entries = done(valkey, read_log(LAYOUT, ORG, Position(None, 0, 0))).entries
    assert {json.loads(entry.message)["workflow_id"] for entry in entries} == {"wf", "calm"}
    again = restored(valkey, known)
    assert (again.new_epoch, again.changed) == (False, ())


def test_what_is_written_back_is_published(valkey: Valkey) -> None:
    """Brokers that knew less than the one that restores hear of it at once."""
    change(valkey, State.KILLED)
    known = snapshot(valkey)
    lose_everything(valkey)
    subscription = valkey.client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    subscription.subscribe(LAYOUT.live(ORG))
    subscription.get_message(timeout=5)
    result = restored(valkey, known)
    live = parse_live(subscription.get_message(timeout=5)["data"])
    subscription.close()
    assert (live.epoch, live.seq) == (result.position.epoch, result.position.seq)
    assert json.loads(live.message)["version"] == 1


def test_change_after_the_loss_under_a_low_version(valkey: Valkey) -> None:
    """A pause that came after the loss is newer than what was known, and gets a version that clients take for newer."""
    change(valkey, State.TRIPPED, version=40)
    known = snapshot(valkey)
    lose_everything(valkey)
    paused = change(valkey, State.PAUSED, reason=HOSTILE)
    assert paused.version == 1
    result = restored(valkey, known)
    assert result.changed == ("wf",)
    stored = snapshot(valkey).workflows["wf"]
    assert (stored.workflow.state, stored.workflow.version) == (State.PAUSED, 41)
    assert (stored.workflow.reason, stored.actor) == (HOSTILE, "ops")
    assert stored.message_id.startswith(paused.message_id)
    assert done(valkey, read_receipt(LAYOUT, ORG, stored.message_id)) is not None


@pytest.mark.parametrize("version", [None, 3, 10])
def test_kill_wins_over_what_did_not_know_of_it(valkey: Valkey, version: int | None) -> None:
    """A workflow that was killed stays killed, even when the store forgot it and was told otherwise since."""
    change(valkey, State.KILLED, version=3)
    known = snapshot(valkey)
    lose_everything(valkey)
    change(valkey, State.NORMAL, version=version)
    restored(valkey, known)
    assert state_of(valkey) == (State.KILLED, max(3, version or 0) + 1)
    assert restored(valkey, known).changed == ()


def test_kill_does_not_win_over_a_forced_resume(valkey: Valkey) -> None:
    """A broker that was stalled while a kill was lifted by force does not bring it back, whatever the epoch."""
    change(valkey, State.KILLED)
    stale = snapshot(valkey)
    change(valkey, State.NORMAL, force=True)
    change(valkey, State.PAUSED)
    valkey.client.hset(LAYOUT.meta(ORG), "epoch", "other")
    assert restored(valkey, stale).changed == ()
    assert state_of(valkey) == (State.PAUSED, 3)


def test_kill_does_not_win_over_a_forced_resume_that_was_written_back(valkey: Valkey) -> None:
    """A replica that knows of the kill alone is told of the resume by one broker; the other knows no more than it."""
    change(valkey, State.KILLED)
    replica, knows_the_kill = Replica(valkey), snapshot(valkey)
    tick(valkey)
    change(valkey, State.NORMAL, force=True)
    knows_the_resume = snapshot(valkey)
    replica.promote()
    restored(valkey, knows_the_resume)
    restored(valkey, knows_the_kill)
    assert state_of(valkey) == (State.NORMAL, 2)


def test_lagging_replica_that_was_promoted(valkey: Valkey) -> None:
    """A store that regressed in the same epoch gets the lost kill back and begins a new epoch."""
    change(valkey, State.NORMAL)
    replica = Replica(valkey)
    change(valkey, State.KILLED)
    known = snapshot(valkey)
    replica.promote()
    assert done(valkey, read_log(LAYOUT, ORG, known.position)).lost
    result = restored(valkey, known)
    assert (result.new_epoch, result.changed) == (True, ("wf",))
    assert state_of(valkey) == (State.KILLED, 2)


def test_lagging_replica_that_went_on(valkey: Valkey) -> None:
    """A store that regressed and caught up in number is found out by the entry that it does not have."""
    change(valkey, State.NORMAL)
    replica = Replica(valkey)
    change(valkey, State.KILLED)
    done(valkey, apply(LAYOUT, ORG, PolicyInvalidatedInput("p", 1)))
    known = snapshot(valkey)
    replica.promote()
    for number in range(2, 6):
        done(valkey, apply(LAYOUT, ORG, PolicyInvalidatedInput("p", number)))
    valkey.client.xtrim(LAYOUT.log(ORG), maxlen=10)
    read = done(valkey, read_log(LAYOUT, ORG, known.position))
    assert (read.gap, read.lost) == (True, True)
    result = restored(valkey, known)
    assert (result.new_epoch, result.changed) == (True, ("wf",))


def test_regression_without_any_known_state_still_begins_an_epoch(valkey: Valkey) -> None:
    """Only policies were lost: nothing can be written back, but positions in the lost log must not be trusted."""
    done(valkey, apply(LAYOUT, ORG, PolicyInvalidatedInput("p", 1)))
    replica = Replica(valkey)
    done(valkey, apply(LAYOUT, ORG, PolicyInvalidatedInput("p", 2)))
    known = snapshot(valkey)
    replica.promote()
    result = restored(valkey, known)
    assert (result.new_epoch, result.changed) == (True, ())
    assert result.position.epoch != known.epoch


def test_same_version_with_another_content(valkey: Valkey) -> None:
    """Two histories that reached the same version are told apart by message, and the later change wins above both."""
    change(valkey, State.FLAGGED)
    known = snapshot(valkey)
    lose_everything(valkey)
    change(valkey, State.PAUSED)
    restored(valkey, known)
    assert state_of(valkey) == (State.PAUSED, 2)


def test_trimmed_log_is_no_loss(valkey: Valkey) -> None:
    """A position whose entry was trimmed away is not taken for a loss of the store."""
    change(valkey, State.KILLED)
    known = snapshot(valkey)
    change(valkey, State.NORMAL, force=True)
    valkey.client.xtrim(LAYOUT.log(ORG), maxlen=1, approximate=False)
    read = done(valkey, read_log(LAYOUT, ORG, known.position))
    assert (read.gap, len(read.entries)) == (False, 1)
    assert restored(valkey, known).changed == ()
    assert state_of(valkey) == (State.NORMAL, 2)


def test_large_organization(valkey: Valkey) -> None:
    """More workflows than one call takes are restored in one epoch."""
    for number in range(450):
        change(valkey, State.PAUSED, workflow=f"wf-{number}")
    known = snapshot(valkey)
    lose_everything(valkey)
    result = restored(valkey, known)
    assert len(result.changed) == 450
    after = snapshot(valkey)
    assert (after.workflows, after.position) == (known.workflows, result.position)


def test_two_brokers_that_know_different_things(valkey: Valkey) -> None:
    """Whatever the order in which brokers restore, every workflow ends in the newest state that any of them knew."""
    change(valkey, State.FLAGGED)
    first = snapshot(valkey)
    change(valkey, State.KILLED)
    change(valkey, State.PAUSED, workflow="other")
    second = snapshot(valkey)
    expected: dict[str, StoredWorkflow] = second.workflows
    for order in ([first, second], [second, first]):
        lose_everything(valkey)
        for known in order:
            restored(valkey, known)
        assert snapshot(valkey).workflows == expected
