"""Plain publications of one organization that wait to be applied, and who goes first while the store refuses."""

from collections import deque

import attrs
import trio

from broker.store.apply import Claimant
from protocol.control import ControlInput, StateChangeInput
from protocol.states import WANTS_ACK

GIVE_UP_SECONDS = 60.0
"""How long a store that answers may refuse to apply a publication, if it is no Killed or Paused."""


@attrs.frozen
class Item:
    """A publication as it was heard; see `broker.store.apply.claim`, and `heard_at` is seconds by trio's clock.

    Attributes:
        urgent: it is a Killed or Paused.
        workflow_id: of which workflow it changes the state; None if it is about something else.
    """

    message: ControlInput
    payload: bytes
    claimant: Claimant
    serial: int
    heard_ms: int
    after_ms: int | None
    heard_at: float
    urgent: bool = attrs.field(init=False)
    workflow_id: str | None = attrs.field(init=False)

    @urgent.default
    def _is_urgent(self) -> bool:
        return isinstance(self.message, StateChangeInput) and self.message.state in WANTS_ACK

    @workflow_id.default
    def _whose_state(self) -> str | None:
        return self.message.workflow_id if isinstance(self.message, StateChangeInput) else None


class Lane:
    """First come, first served, for as long as the store takes them.

    When it refuses the first one, a Killed or Paused behind it goes first: the store takes those also when it has no
    memory left. Then older states of the same workflow are void, since they must not be applied after it. A Killed or
    Paused itself is kept for long, in its place before whatever was published later about its workflow. Those of other
    workflows do not wait for it: what the store refuses may be this one alone.

    Args:
        keep: for how many seconds a Killed or Paused is tried, if the store refuses.
    """

    def __init__(self, keep: float) -> None:
        self._keep = keep
        self._items: deque[Item] = deque()
        self._refused_since: float | None = None
        self._refused: set[int] = set()  # serials
        self._urged = trio.Event()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def head(self) -> Item:
        """The one whose turn it is."""
        return self._items[0]

    @property
    def is_fresh(self) -> bool:
        """Whether the store has not refused the first one yet."""
        return self.head.serial not in self._refused

    def append(self, item: Item) -> None:
        """Let one more wait."""
        self._items.append(item)
        if item.urgent and self._refused_since is not None and not self._goes_before(item):
            self._urged.set()

    def settle(self) -> None:
        """The store has taken the first one."""
        taken = self._items.popleft()
        self._refused.discard(taken.serial)
        if not taken.urgent:
            self._refused_since = None

    def unreachable(self) -> None:
        """The store was not there: that is no refusal, and whatever waits has all its time again."""
        self._refused_since = None
        self._refused.clear()

    def refuse(self, now: float) -> list[Item]:
        """The store has refused the first one; returns those that have waited for too long, and are gone from here."""
        if self._refused_since is None:
            self._refused_since = now
        self._refused.add(self.head.serial)
        kept: deque[Item] = deque()
        gone: list[Item] = []
        held: set[str | None] = set()  # workflows with a Killed or Paused to come, after which the newer states belong
        for item in self._items:
            waited = now - max(item.heard_at, self._refused_since)
            if item.urgent:
                is_kept = waited <= self._keep
            else:
                is_kept = waited <= GIVE_UP_SECONDS or (item.workflow_id is not None and item.workflow_id in held)
            (kept if is_kept else gone).append(item)
            if item.urgent and is_kept:
                held.add(item.workflow_id)
        self._items = kept
        self._refused.difference_update(item.serial for item in gone)
        return gone

    def let_pass(self) -> list[Item]:
        """Put the first Killed or Paused before all others; returns what it makes void, which is gone from here.

        One that was refused itself goes to the end, with whatever is about its workflow.
        """
        if self._items and self.head.urgent and not self.is_fresh:
            self._step_aside()
            return []
        place = next((number for number, item in enumerate(self._items) if item.urgent), 0)
        if not place:
            return []
        before = [self._items.popleft() for _ in range(place)]
        urgent = self._items.popleft()
        void = [item for item in before if item.workflow_id == urgent.workflow_id]
        self._items.extendleft(item for item in reversed(before) if item.workflow_id != urgent.workflow_id)
        self._items.appendleft(urgent)
        return void

    def _goes_before(self, item: Item) -> bool:
        return self.head.urgent and self.head.workflow_id == item.workflow_id

    def _step_aside(self) -> None:
        workflow_id = self.head.workflow_id
        others = [item for item in self._items if item.workflow_id != workflow_id]
        others += [item for item in self._items if item.workflow_id == workflow_id]
        self._items = deque(others)

    async def pause(self, seconds: float) -> None:
        """Wait, but only until a Killed or Paused comes that may go first."""
        self._urged = trio.Event()
        with trio.move_on_after(seconds):
            await self._urged.wait()
