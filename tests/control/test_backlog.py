import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.control import acks as acks_module
from broker.control import backlog as module
from broker.control.acks import MAX_SETTLED, PendingAcks
from broker.control.backlog import Backlog
from protocol.states import State
from tests.control.making import change, policy


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(list(State))), max_size=40))
def test_collapses_but_never_a_kill(changes: list[tuple[str, State]]) -> None:
    """What is left is in order, ends in each workflow's newest state, and holds every kill."""
    backlog = Backlog()
    publications = [change(seq, state, workflow_id) for seq, (workflow_id, state) in enumerate(changes, 1)]
    for publication in publications:
        backlog.add(publication)
    left = [backlog.pop() for _ in range(len(backlog))]
    assert not backlog
    assert [each.seq for each in left] == sorted(each.seq for each in left)
    assert [each for each in left if each.kills] == [each for each in publications if each.kills]
    others = [each.workflow_id for each in left if not each.kills]
    assert len(others) == len(set(others))
    newest = {each.workflow_id: each for each in publications}
    assert set(newest.values()) <= set(left)


def test_overrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past its bounds a backlog is empty and says so until it is cleared."""
    monkeypatch.setattr(module, "MAX_OTHERS", 3)
    backlog = Backlog()
    for seq in range(1, 4):
        backlog.add(policy(seq, seq))
    backlog.add(change(4))
    assert (len(backlog), backlog.overrun) == (4, False)
    backlog.add(policy(5, 5))
    backlog.add(change(6))
    assert (len(backlog), backlog.overrun) == (0, True)
    backlog.clear()
    backlog.add(change(7))
    assert (len(backlog), backlog.overrun) == (1, False)


def test_newer_states_stop_resends_but_not_of_kills() -> None:
    """A resume ends the resending of a pause; a kill is sent again whatever follows; late acks count."""
    acks = PendingAcks()
    pause, kill = change(1, State.PAUSED), change(2, State.KILLED)
    paused = acks.expect(pause, addressee=True)
    assert paused is not None
    acks.supersede("wf")
    killed = acks.expect(kill, addressee=True)
    assert killed is not None
    acks.supersede("wf")
    assert (paused.resent, killed.resent) == (False, True)
    assert acks.confirm(pause.message_id) is paused
    assert acks.confirm(kill.message_id) is killed
    assert acks.confirm(kill.message_id) is None
    assert not killed.resent


def test_settled_acks_are_bounded() -> None:
    """Of those that are not sent again only the newest are remembered."""
    acks = PendingAcks()
    publications = [change(seq, State.PAUSED) for seq in range(1, MAX_SETTLED + 3)]
    for publication in publications:
        acks.supersede("wf")
        acks.expect(publication, addressee=True)
    assert len(acks) == MAX_SETTLED + 1
    assert acks.confirm(publications[0].message_id) is None
    assert acks.confirm(publications[1].message_id) is not None


def test_overrun_by_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many states as the bound may wait, however often they change; kills count one by one."""
    monkeypatch.setattr(module, "MAX_STATES", 3)
    backlog = Backlog()
    for seq in range(1, 10):
        backlog.add(change(seq, State.FLAGGED, f"wf-{seq % 3}"))
    assert (len(backlog), backlog.overrun) == (3, False)
    backlog.pop()
    backlog.add(change(10, State.KILLED))
    assert (len(backlog), backlog.overrun) == (3, False)
    backlog.add(change(11, State.KILLED))
    assert (len(backlog), backlog.overrun) == (0, True)
    backlog.clear()
    for seq in range(12, 15):
        backlog.add(change(seq, State.KILLED))
    assert (len(backlog), backlog.overrun) == (3, False), "what was let go does not count"


def test_so_many_are_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound nothing more is waited for; what is settled or confirmed does not count."""
    monkeypatch.setattr(acks_module, "MAX_RESENT", 2)
    acks = PendingAcks()
    pause, *kills = change(1, State.PAUSED), *(change(seq, State.KILLED) for seq in range(2, 6))
    assert acks.expect(pause, addressee=True) is not None
    acks.supersede("wf")
    assert [acks.expect(kill, addressee=True) is not None for kill in kills[:3]] == [True, True, False]
    assert acks.expect(kills[0], addressee=True) is None, "it is waited for already"
    acks.confirm(pause.message_id)
    assert acks.expect(kills[2], addressee=True) is None
    acks.confirm(kills[0].message_id)
    assert [acks.expect(kill, addressee=True) is not None for kill in kills[2:]] == [True, False]
