"""Garbage collection on our own terms, so that it never stops the loop for long.

A full collection walks every object of every idle session: with 10,000 of them that stops everything for hundreds of
milliseconds. Sessions free themselves by reference counting, so the old generation has next to nothing to find.
"""

import gc

YOUNG = 5_000
"""Allocations between two collections of the youngest generation; one takes well under a millisecond."""

MIDDLE = 20
"""Collections of the youngest generation between two of the middle one."""

NEVER = 1_000_000_000


def tend() -> None:
    """Freeze what the start has made, and let only the young generations be collected from now on."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, NEVER)
