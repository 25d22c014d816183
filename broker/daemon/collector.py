"""Garbage collection on our own terms, so that it never stops the loop for long.

A full collection walks every object of every idle session: with 10,000 of them that stops everything for hundreds of
milliseconds. Connections let go of themselves when they end (`broker.wire.untie`), so that counting references frees
them, and the old generation has nothing to find.
"""

import gc

YOUNG = 5_000
"""Allocations between two collections, less what was freed; one takes about a millisecond."""

ALWAYS = -1
"""The middle generation is collected together with the youngest, every time: each object is looked at once, not twice."""

NEVER = 1_000_000_000


def tend() -> None:
    """Freeze what the start has made, and let only the young generations be collected from now on."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, ALWAYS, NEVER)
