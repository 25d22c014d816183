"""Who goes first, and who is given up, while the store refuses an organization's publications."""

import itertools

import trio
import trio.testing

from broker.control.lane import GIVE_UP_SECONDS, Item, Lane
from broker.store.apply import Claimant
from protocol.control import ControlInput, PolicyInvalidatedInput, StateChangeInput
from protocol.states import State

KEEP = 3600.0
_SERIALS = itertools.count()


def heard(message: ControlInput, at: float = 0.0) -> Item:
    """A publication that was heard at this time."""
    return Item(message, b"", Claimant("b", 1, 0), next(_SERIALS), 0, None, at)


def state(state: State, workflow: str = "wf", at: float = 0.0) -> Item:
    """A publication of a workflow's state."""
    return heard(StateChangeInput(workflow, state), at)


def policy() -> Item:
    """A publication that is not about a state."""
    return heard(PolicyInvalidatedInput("p", 1))


def lane_of(*items: Item) -> Lane:
    """A lane in which these wait."""
    lane = Lane(KEEP)
    for item in items:
        lane.append(item)
    return lane


def rest(lane: Lane) -> list[Item]:
    """What waits, in order; nothing waits after that."""
    found = []
    while lane:
        found.append(lane.head)
        lane.settle()
    return found


def test_first_kill_goes_first() -> None:
    """Past whatever is about other workflows, which keeps its order; kills and pauses keep theirs."""
    items = [policy(), state(State.FLAGGED, "a"), state(State.PAUSED, "b"), state(State.KILLED, "c"), policy()]
    lane = lane_of(*items)
    assert lane.let_pass() == []
    assert lane.let_pass() == []
    assert rest(lane) == [items[2], items[0], items[1], items[3], items[4]]


def test_older_states_of_its_workflow_are_void() -> None:
    """A resume from before a pause does not come after it; one from after it does."""
    before, other, pause, after = (
        state(State.NORMAL),
        state(State.NORMAL, "b"),
        state(State.PAUSED),
        state(State.NORMAL),
    )
    lane = lane_of(before, other, pause, after)
    assert lane.let_pass() == [before]
    assert rest(lane) == [pause, other, after]


def test_given_up_together() -> None:
    """What has been refused for too long is given up, and all that has waited as long; what came later has its time."""
    old, as_old, new = policy(), state(State.FLAGGED), state(State.FLAGGED, "b", at=50.0)
    lane = lane_of(old, as_old, new)
    assert lane.refuse(0.0) == []
    assert lane.refuse(GIVE_UP_SECONDS) == []
    assert lane.refuse(GIVE_UP_SECONDS + 1) == [old, as_old]
    assert rest(lane) == [new]


def test_kill_is_kept() -> None:
    """A kill is tried for as long as claims last, and so is what was published about its workflow after it."""
    kill, after, other = state(State.KILLED), state(State.NORMAL), state(State.NORMAL, "b")
    lane = lane_of(kill, after, other)
    lane.refuse(0.0)
    assert lane.refuse(KEEP) == [other]
    assert lane.refuse(KEEP + 1) == [kill, after]


def test_store_that_was_away() -> None:
    """Time counts again from the next refusal."""
    item = policy()
    lane = lane_of(item)
    lane.refuse(0.0)
    lane.unreachable()
    assert lane.refuse(GIVE_UP_SECONDS + 1) == []
    assert lane.refuse(2 * GIVE_UP_SECONDS + 2) == [item]


def test_kill_that_the_store_takes_does_not_prolong_the_rest() -> None:
    """A store without memory takes one kill after the other; that is no sign that it will take a policy."""
    kill, old = state(State.KILLED), policy()
    lane = lane_of(old, kill)
    lane.refuse(0.0)
    lane.let_pass()
    lane.settle()
    assert lane.refuse(GIVE_UP_SECONDS + 1) == [old]


def test_a_refused_kill_lets_those_of_other_workflows_pass() -> None:
    """What the store refuses may be one workflow's alone: the kill of another does not wait for it."""
    bad, after, other, kill = (
        state(State.KILLED, "a"),
        state(State.NORMAL, "a"),
        policy(),
        state(State.PAUSED, "b"),
    )
    lane = lane_of(bad, after, other, kill)
    for then in (other, kill):
        assert lane.is_fresh
        lane.refuse(0.0)
        assert lane.let_pass() == []
        assert lane.head is then
    assert lane.is_fresh
    lane.settle()
    assert rest(lane) == [other, bad, after]


def test_a_lonely_refused_kill_stays_where_it_is() -> None:
    """Its own workflow's states wait for it."""
    bad, after = state(State.KILLED, "a"), state(State.NORMAL, "a")
    lane = lane_of(bad, after)
    lane.refuse(0.0)
    assert lane.let_pass() == []
    assert not lane.is_fresh
    assert rest(lane) == [bad, after]


def test_a_store_that_takes_one_has_all_its_time_again() -> None:
    """What waits behind a publication that was taken after all is not given up for the refusals before that."""
    taken, next_one = policy(), policy()
    lane = lane_of(taken, next_one)
    lane.refuse(0.0)
    lane.settle()
    assert lane.refuse(GIVE_UP_SECONDS + 1) == []
    assert lane.refuse(2 * GIVE_UP_SECONDS + 2) == [next_one]


def test_what_was_refused_before_the_store_was_away_is_fresh() -> None:
    """The store that is back may take it: a kill is tried where it stands before it steps aside for others."""
    kill, other = state(State.KILLED, "a"), state(State.KILLED, "b")
    lane = lane_of(kill, other)
    lane.refuse(0.0)
    lane.unreachable()
    assert lane.is_fresh
    assert lane.let_pass() == []
    assert rest(lane) == [kill, other]


def test_a_lane_in_which_nothing_is_left() -> None:
    """When all that waited is given up there is nobody to let pass, and nothing is remembered of what has gone."""
    lane = lane_of(policy(), state(State.KILLED))
    lane.refuse(0.0)
    lane.let_pass()
    lane.refuse(0.0)
    assert len(lane.refuse(KEEP + 1)) == 2
    assert lane.let_pass() == []
    lane.append(policy())
    lane.refuse(0.0)
    lane.settle()
    assert not lane
    assert not lane._refused


async def test_a_kill_ends_the_pause_of_another_workflows(autojump_clock: trio.testing.MockClock) -> None:
    """It is tried at once, each time; another of the same workflow has to wait behind."""
    lane = lane_of(state(State.KILLED, "a"))
    lane.refuse(0.0)
    for workflow, seconds in (("a", 1.0), ("b", 0.5), ("a", 1.0)):
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lane.pause, 1.0)
            await trio.sleep(0.5)
            lane.append(state(State.KILLED, workflow))
        assert trio.current_time() - began == seconds


async def test_a_kill_ends_the_pause_of_its_own_workflows_other_states(autojump_clock: trio.testing.MockClock) -> None:
    """A resume that the store refuses is void once a kill has come: that one does not wait for it."""
    lane = lane_of(state(State.NORMAL))
    lane.refuse(0.0)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lane.pause, 1.0)
        await trio.sleep(0.5)
        lane.append(state(State.KILLED))
    assert trio.current_time() - began == 0.5
