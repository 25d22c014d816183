"""The one door into an organization's control state."""

import json

import pytest

from broker.store.applied import Status
from broker.store.apply import Claimant, apply, claim
from broker.store.layout import Layout
from broker.store.limits import LogLimits
from broker.store.log import parse_live, read_log
from broker.store.snapshot import Position, read_snapshot, read_workflow
from protocol.codec import Message, decode_control_input, decode_control_server, encode
from protocol.control import (
    ApprovalResolved,
    ApprovalResolvedInput,
    ControlInput,
    KeyRotatedInput,
    PolicyInvalidated,
    PolicyInvalidatedInput,
    StateChange,
    StateChangeInput,
)
from protocol.errors import ProtocolError
from protocol.states import Outcome, State
from tests.conftest import Valkey
from tests.store.helpers import LAYOUT, ORG, change, done, heard_by, with_key


def test_first_change_is_version_one(valkey: Valkey) -> None:
    """A change without a version counts on from nothing, and reads back as it was given."""
    applied = change(valkey, State.PAUSED, reason="tea")
    assert (applied.status, applied.version, applied.seq, applied.previous) == (Status.APPLIED, 1, 1, None)
    snapshot = done(valkey, read_snapshot(LAYOUT, ORG))
    stored = snapshot.workflows["wf"]
    assert (stored.workflow.state, stored.workflow.version, stored.workflow.reason) == (State.PAUSED, 1, "tea")
    assert (stored.actor, stored.message_id, stored.at_ms) == ("ops", applied.message_id, applied.ms)
    assert snapshot.position == Position(applied.epoch, 1, applied.ms)
    assert snapshot.open_receipts == {"wf": applied.message_id}
    assert done(valkey, read_workflow(LAYOUT, ORG, "wf")) == stored


@pytest.mark.parametrize(
    ("state", "brought", "expected"),
    [
        (State.NORMAL, 8, (Status.APPLIED, 8)),
        (State.NORMAL, 5, (Status.STALE, 5)),
        (State.NORMAL, 2**52, (Status.APPLIED, 2**52)),
        (State.NORMAL, 2**52 + 1, (Status.STALE, 5)),
        (State.FLAGGED, 0, (Status.STALE, 5)),
        (State.KILLED, 3, (Status.APPLIED, 6)),
        (State.PAUSED, 2**53 - 1, (Status.APPLIED, 6)),
        (State.KILLED, 2**52, (Status.APPLIED, 2**52)),
    ],
)
def test_brought_versions(valkey: Valkey, state: State, brought: int, expected: tuple[Status, int]) -> None:
    """A brought version is kept when it is newer and not huge; a Killed or Paused is never dropped for it."""
    change(valkey, State.TRIPPED, version=5)
    applied = change(valkey, state, version=brought)
    assert (applied.status, applied.version) == expected


def test_versions_go_on_exactly_above_the_largest_brought(valkey: Valkey) -> None:
    """Integers beyond what Lua prints by default keep every digit."""
    change(valkey, State.NORMAL, version=2**52)
    assert change(valkey, State.KILLED).version == 2**52 + 1
    stored = done(valkey, read_workflow(LAYOUT, ORG, "wf"))
    assert stored is not None
    assert stored.workflow.version == 2**52 + 1


def test_killed_is_terminal(valkey: Valkey) -> None:
    """Nothing but force leaves Killed; another Killed is applied and has a receipt of its own."""
    first = change(valkey, State.KILLED)
    refused = change(valkey, State.NORMAL)
    assert (refused.status, refused.version, refused.previous) == (Status.TERMINAL, 1, State.KILLED)
    second = change(valkey, State.KILLED)
    assert (second.status, second.version) == (Status.APPLIED, 2)
    assert valkey.client.hget(LAYOUT.receipts(ORG, first.message_id), "status") == b"open"
    assert change(valkey, State.NORMAL, force=True).status is Status.APPLIED
    assert done(valkey, read_snapshot(LAYOUT, ORG)).open_receipts == {}


def test_newer_state_supersedes_the_receipt_of_a_pause(valkey: Valkey) -> None:
    """After a resume nobody waits for the acknowledgements of the pause any more."""
    paused = change(valkey, State.PAUSED)
    resumed = change(valkey, State.NORMAL)
    receipt = valkey.client.hgetall(LAYOUT.receipts(ORG, paused.message_id))
    assert (receipt[b"status"], receipt[b"superseded_by"]) == (b"superseded", resumed.message_id.encode())


def test_log_live_channel_and_codec_agree(valkey: Valkey) -> None:
    """The spliced message of every kind is byte for byte what the codec writes, in the log and on the live channel."""
    subscription = valkey.client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    subscription.subscribe(LAYOUT.live(ORG))
    subscription.get_message(timeout=5)
    hostile = 'he said "%s" \\ \u2028 \x00 %1 ]] -- \U0001f600 ,"message_id":"x"'
    inputs: list[ControlInput] = [
        StateChangeInput("wf", State.KILLED, reason=hostile, updated_at=1, message_id="m1"),
        PolicyInvalidatedInput("pol", 2**53 - 1, message_id="m2"),
        KeyRotatedInput("key", 7, message_id="m3"),
        ApprovalResolvedInput("ap", "wf", "ex", Outcome.DENIED, note=hostile, resolved_at=2, message_id="m4"),
    ]
    results = [done(valkey, apply(LAYOUT, ORG, message, actor=hostile)) for message in inputs]
    expected: list[Message] = [
        StateChange(ORG, "wf", State.KILLED, 1, hostile, 1, "m1"),
        PolicyInvalidated(ORG, "pol", 2**53 - 1, "m2"),
        decode_control_server(
            b'{"type":"key_rotated","organization_id":"acme","key_id":"key","new_version":7,"message_id":"m3"}'
        ),
        ApprovalResolved(ORG, "ap", "wf", "ex", Outcome.DENIED, hostile, 2, "m4"),
    ]
    entries = done(valkey, read_log(LAYOUT, ORG, Position(None, 0, 0))).entries
    assert [entry.message for entry in entries] == [encode(message) for message in expected]
    assert all(json.loads(entry.actor) == hostile for entry in entries)
    for number, result in enumerate(results, start=1):
        live = parse_live(subscription.get_message(timeout=5)["data"])
        assert (live.epoch, live.seq, live.ms) == (result.epoch, number, result.ms)
        assert live.message == entries[number - 1].message
        assert result.heard == 1
    subscription.close()
    stored = done(valkey, read_workflow(LAYOUT, ORG, "wf"))
    assert stored is not None
    assert (stored.workflow.reason, stored.actor) == (hostile, hostile)


def test_missing_times_are_the_servers(valkey: Valkey) -> None:
    """A message without a time gets the server's, in unix seconds."""
    applied = change(valkey, State.PAUSED)
    done(valkey, apply(LAYOUT, ORG, ApprovalResolvedInput("ap", "wf", "ex", Outcome.APPROVED)))
    first, second = done(valkey, read_log(LAYOUT, ORG, Position(None, 0, 0))).entries
    assert json.loads(first.message)["updated_at"] == applied.ms // 1000
    assert abs(json.loads(second.message)["resolved_at"] - applied.ms // 1000) <= 1


def test_same_message_id_is_applied_once_and_answered_alike(valkey: Valkey) -> None:
    """A call whose answer was lost can be made again; a refusal stays a refusal."""
    first = change(valkey, State.KILLED, message_id="m")
    again = change(valkey, State.KILLED, message_id="m")
    assert (again.status, again.version, again.seq, again.ms) == (Status.APPLIED, 1, 1, first.ms)
    assert change(valkey, State.NORMAL, message_id="n").status is Status.TERMINAL
    assert change(valkey, State.NORMAL, message_id="n", force=True).status is Status.TERMINAL
    assert done(valkey, read_snapshot(LAYOUT, ORG)).seq == 1


def test_one_message_id_for_two_workflows_loses_neither(valkey: Valkey) -> None:
    """A publisher that gives a whole batch one id has every kill applied, under ids of their own."""
    results = [
        done(valkey, apply(LAYOUT, ORG, StateChangeInput(name, State.KILLED, message_id="batch"))) for name in "ab"
    ]
    assert [result.status for result in results] == [Status.APPLIED, Status.APPLIED]
    assert len({result.message_id for result in results}) == 2


def test_plain_publication_needs_an_organization_with_a_key(valkey: Valkey) -> None:
    """Without any key nobody could hear it, and nothing is written."""
    payload = b'{"type":"state_change","workflow_id":"wf","state":"killed"}'
    assert heard_by(valkey, payload, "a").status is Status.NO_KEY
    assert valkey.client.keys("*") == []


def test_broker_that_has_sessions_of_an_organization_without_keys(valkey: Valkey) -> None:
    """A store that lost its data does not keep a kill from agents that are still connected."""
    payload = b'{"type": "state_change", "workflow_id": "wf", "state": "Killed"}'
    message = decode_control_input(payload)
    operation = claim(LAYOUT, ORG, message, payload, Claimant("a", 1, 0), vouched=True)
    assert done(valkey, operation).status is Status.APPLIED


def test_plain_publication_is_claimed_by_message_id(valkey: Valkey) -> None:
    """Of two brokers that hear one publication the first applies it."""
    with_key(valkey)
    payload = b'{"type":"state_change","workflow_id":"wf","state":"killed","message_id":"m"}'
    assert heard_by(valkey, payload, "a").status is Status.APPLIED
    assert heard_by(valkey, payload, "b").status is Status.DUPLICATE


def test_plain_publication_is_claimed_by_payload(valkey: Valkey) -> None:
    """Identical publications are told apart by counting, and a missing message_id is derived from the claim."""
    with_key(valkey)
    payload = b'{"type":"policy_invalidated","policy_id":"p","new_version":2}'
    answers = [heard_by(valkey, payload, broker) for broker in "abba"]
    assert [answer.status for answer in answers] == ["applied", "duplicate", "applied", "duplicate"]
    digest, epoch, seq = answers[2].message_id.split("-")
    assert (len(digest), epoch, seq) == (16, answers[2].epoch[:6], "2")


def test_presenting_again_under_one_serial_is_no_second_publication(valkey: Valkey) -> None:
    """A broker whose answer was lost may hand the same publication in again; a new serial is a new publication."""
    with_key(valkey)
    payload = b'{"type":"state_change","workflow_id":"wf","state":"killed"}'
    answers = [heard_by(valkey, payload, "a", serial=serial) for serial in (7, 7, 8)]
    assert [answer.status for answer in answers] == ["applied", "duplicate", "applied"]


def test_log_is_trimmed_by_its_cap_and_counts_what_it_cut(valkey: Valkey) -> None:
    """Beyond the cap the oldest entries go, counted; limits once given hold for callers that give none."""
    limits = LogLimits(max_entries=3)
    for number in range(5):
        message = PolicyInvalidatedInput("p", number)
        done(valkey, apply(LAYOUT, ORG, message, limits=limits if number == 0 else None))
    snapshot = done(valkey, read_snapshot(LAYOUT, ORG))
    assert (snapshot.capped, snapshot.seq) == (2, 5)
    assert snapshot.capped_at_ms == snapshot.ms
    assert done(valkey, read_log(LAYOUT, ORG, Position(None, 0, 0))).gap


@pytest.mark.parametrize("organization_id", ["", "a b", "{x}", "ä", "a" * 129])
def test_hostile_organization(valkey: Valkey, organization_id: str) -> None:
    """An organization_id that is none is refused before it becomes part of a key."""
    with pytest.raises(ProtocolError):
        done(valkey, apply(LAYOUT, organization_id, PolicyInvalidatedInput("p", 1)))


def test_a_log_that_was_trimmed_to_nothing(valkey: Valkey) -> None:
    """Whoever was behind the newest entry of a log that has none left has missed something; who was level has not."""
    first, second = change(valkey, State.PAUSED), change(valkey, State.NORMAL)
    valkey.client.delete(LAYOUT.log(ORG))
    behind = done(valkey, read_log(LAYOUT, ORG, Position(first.epoch, first.seq, first.ms)))
    assert (behind.gap, behind.lost, behind.complete) == (True, False, False)
    level = done(valkey, read_log(LAYOUT, ORG, Position(second.epoch, second.seq, second.ms)))
    assert (level.gap, level.complete) == (False, True)


def test_a_clock_that_is_set_back(valkey: Valkey) -> None:
    """The log goes on from its own time when the server's clock is behind it, since its ids must rise."""
    first = change(valkey, State.PAUSED)
    ahead = first.ms + 3_600_000
    valkey.client.hset(LAYOUT.meta(ORG), "ms", ahead)
    second = change(valkey, State.NORMAL)
    assert (second.seq, second.ms) == (2, ahead)
    entries = done(valkey, read_log(LAYOUT, ORG, Position(first.epoch, first.seq, first.ms))).entries
    assert [(entry.seq, entry.ms) for entry in entries] == [(2, ahead)]


def test_receipts_that_have_expired_are_not_open(valkey: Valkey) -> None:
    """Nobody who comes is asked to acknowledge what can no longer be acknowledged."""
    old, new = (change(valkey, State.KILLED, workflow=workflow) for workflow in ("old", "new"))
    assert done(valkey, read_snapshot(LAYOUT, ORG)).open_receipts == {"old": old.message_id, "new": new.message_id}
    valkey.client.hset(LAYOUT.open(ORG), "old", f"{old.message_id} {old.ms}")
    assert done(valkey, read_snapshot(LAYOUT, ORG)).open_receipts == {"new": new.message_id}


@pytest.mark.parametrize("prefix", ["", "app:"])
def test_whose_live_channel_it_is(prefix: str) -> None:
    """Of all channels only an organization's live one, under this very prefix, names an organization."""
    layout = Layout(prefix)
    assert layout.organization_of_live(layout.live(ORG)) == ORG
    for name in (layout.key_changes(), layout.control(ORG), layout.log(ORG), "x" + layout.live(ORG), "", "workflow:a"):
        assert layout.organization_of_live(name) is None
