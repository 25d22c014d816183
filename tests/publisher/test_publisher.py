"""The Publisher's control messages."""

from collections.abc import Iterator

import pytest
import redis

from broker import Publisher
from broker.publisher import Refused
from broker.store.applied import Status
from broker.store.log import read_log
from broker.store.snapshot import Position, read_workflow
from protocol.codec import decode_control_server
from protocol.control import (
    ApprovalResolved,
    KeyRotated,
    PolicyInvalidated,
    StateChange,
)
from protocol.states import Outcome, State
from tests.conftest import Valkey


@pytest.fixture
def publisher(valkey: Valkey) -> Iterator[Publisher]:
    """A publisher for the operator "ops"."""
    with Publisher(valkey.url, actor="ops") as made:
        yield made


def test_life_of_a_workflow(publisher: Publisher) -> None:
    """Pause, resume and kill count versions up; leaving Killed is refused in words, and forced."""
    assert publisher.pause("acme", "wf", "tea").version == 1
    assert publisher.resume("acme", "wf").previous is State.PAUSED
    assert publisher.state_change("acme", "wf", "TRIPPED", version=7).version == 7
    assert publisher.kill("acme", "wf", "runaway", actor="alice").version == 8
    with pytest.raises(Refused, match=r"workflow wf of acme is Killed.*--force") as caught:
        publisher.resume("acme", "wf")
    assert caught.value.applied.status is Status.TERMINAL
    stored = publisher.run(read_workflow(publisher.layout, "acme", "wf"))
    assert stored is not None
    assert (stored.workflow.state, stored.workflow.reason, stored.actor) == (State.KILLED, "runaway", "alice")
    assert publisher.resume("acme", "wf", force=True).version == 9


def test_a_url_with_the_setting_of_another_pool(valkey: Valkey) -> None:
    """A URL is shared with programs whose redis-py pools take a timeout; brokers pass over it, and publishers too."""
    with Publisher(f"{valkey.url}?timeout=1") as publisher:
        assert publisher.pause("acme", "wf").version == 1


def test_stale_version_is_refused_in_words(publisher: Publisher) -> None:
    """A resume under an old version is not silently dropped where its publisher can be told."""
    publisher.state_change("acme", "wf", "flagged", version=5)
    with pytest.raises(Refused, match="at version 5, and version 4 is not newer"):
        publisher.state_change("acme", "wf", "normal", version=4)


def test_every_kind_of_message(publisher: Publisher) -> None:
    """Each method appends the message of its name to the organization's log."""
    publisher.kill("acme", "wf", message_id="m1")
    publisher.policy_invalidated("acme", "pol", 2, message_id="m2")
    publisher.key_rotated("acme", "key", 3, message_id="m3")
    publisher.approval_resolved("acme", "ap", "wf", "ex", "Approved", "fine", resolved_at=4, message_id="m4")
    entries = publisher.run(read_log(publisher.layout, "acme", Position(None, 0, 0))).entries
    first, *others = [decode_control_server(entry.message) for entry in entries]
    assert isinstance(first, StateChange)
    assert others == [
        PolicyInvalidated("acme", "pol", 2, "m2"),
        KeyRotated("acme", "key", 3, "m3"),
        ApprovalResolved("acme", "ap", "wf", "ex", Outcome.APPROVED, "fine", 4, "m4"),
    ]
    assert [entry.actor for entry in entries] == [b'"ops"'] * 4


def test_repeating_a_call_takes_effect_once(publisher: Publisher) -> None:
    """The same message_id again is answered as at first."""
    first = publisher.kill("acme", "wf", message_id="m")
    assert publisher.kill("acme", "wf", message_id="m").seq == first.seq == 1


def test_answer_that_is_lost_on_the_way(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the connection breaks after Redis applied a kill, the retry finds it applied and adds no second one."""
    connection = redis.connection.UnixDomainSocketConnection
    read = connection.read_response
    broken: list[object] = []

    def read_then_break(self: redis.connection.UnixDomainSocketConnection, *args: object, **kwargs: object) -> object:
        reply = read(self, *args, **kwargs)
        if isinstance(reply, list) and len(reply) == 8 and not broken:
            broken.append(reply)
            self.disconnect()  # type: ignore[no-untyped-call]
            raise redis.exceptions.ConnectionError("cut")
        return reply

    publisher.pause("acme", "wf")
    monkeypatch.setattr(connection, "read_response", read_then_break)
    applied = publisher.kill("acme", "wf")
    assert len(broken) == 1
    assert (applied.status, applied.version, applied.seq) == (Status.APPLIED, 2, 2)
    assert publisher.run(read_log(publisher.layout, "acme", Position(None, 0, 0))).position.seq == 2


def test_arguments_that_the_protocol_does_not_allow(publisher: Publisher) -> None:
    """Wrong ids, states and versions are ValueErrors that name the field."""
    with pytest.raises(ValueError, match="workflow_id"):
        publisher.kill("acme", "a b")
    with pytest.raises(ValueError, match="organization_id"):
        publisher.kill("{acme}", "wf")
    with pytest.raises(ValueError, match="state"):
        publisher.state_change("acme", "wf", "dead")
    with pytest.raises(ValueError, match="new_version"):
        publisher.policy_invalidated("acme", "pol", -1)
    with pytest.raises(ValueError, match="reason"):
        publisher.kill("acme", "wf", "\ud800")
    with pytest.raises(ValueError, match="embedded"):
        Publisher("embedded")
