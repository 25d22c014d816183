"""What went right and what went wrong, counted by everybody who takes part."""

from collections import Counter

import attrs

__all__ = ["Ledger"]

KEPT = 100


@attrs.define(eq=False)
class Ledger:
    """Counts, and the first complaints in words.

    Attributes:
        counts: what happened, by name.
        complaints: what must never happen; the first hundred.
        complained: how many there were in all.
    """

    counts: Counter[str] = attrs.field(factory=Counter)
    complaints: list[str] = attrs.field(factory=list)
    complained: int = 0

    def complain(self, what: str) -> None:
        """Note what must not be."""
        self.complained += 1
        if len(self.complaints) < KEPT:
            self.complaints.append(what)
