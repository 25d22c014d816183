"""What waits for a session that cannot take it yet: in order, and of each workflow only what still matters."""

from broker.control.publication import Publication

MAX_STATES = 20_000
"""State changes that may wait; there are as many as workflows, and one more for each kill."""

MAX_OTHERS = 256
"""Approvals, policies and keys that may wait."""


class Backlog:
    """Publications in the order of the log.

    A newer state of a workflow takes the place of an older one that still waits, but a kill always stays. Past the
    bounds everything is let go, and the session must be mended from snapshot and log instead.
    """

    __slots__ = ("_states", "_waiting", "overrun")

    def __init__(self) -> None:
        self._waiting: dict[object, Publication] = {}
        self._states = 0
        self.overrun = False

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, publication: Publication) -> None:
        """Let one more wait; sets `overrun`, and forgets everything, when that is too much."""
        if self.overrun:
            return
        key: object = publication
        if publication.state is not None:
            if not publication.kills:
                key = publication.workflow_id
                if self._waiting.pop(key, None) is not None:
                    self._states -= 1
            self._states += 1
        self._waiting[key] = publication
        if self._states > MAX_STATES or len(self._waiting) - self._states > MAX_OTHERS:
            self.clear()
            self.overrun = True

    def pop(self) -> Publication:
        """Take the oldest; raises StopIteration when there is none."""
        key = next(iter(self._waiting))
        publication = self._waiting.pop(key)
        if publication.state is not None:
            self._states -= 1
        return publication

    def clear(self) -> None:
        """Forget everything, an overrun too."""
        self._waiting.clear()
        self._states = 0
        self.overrun = False
