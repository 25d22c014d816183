"""Garbage collection on our own terms, so that it never stops the loop for long.

A full collection walks every object of every idle session: with 10,000 of them that stops everything for hundreds of
milliseconds. Connections let go of themselves when they end (`broker.wire.untie`), so that counting references frees
them, and the old generation has nothing to find.
"""

import gc
import time

import trio

YOUNG = 5_000
"""Allocations between two collections, less what was freed; one takes about a millisecond."""

ALWAYS = -1
"""The middle generation is collected together with the youngest, every time: no object is looked at twice."""

NEVER = 1_000_000_000

INTERVAL = 0.5
"""Seconds between two collections by the timer."""

QUIET_INTERVAL = 2.0
"""Seconds after one that took less than `QUICK`: there was little to look at, and an idle broker is let sleep."""

QUICK = 0.0005
"""Seconds for some thousand objects."""


def tend() -> None:
    """Freeze what the start has made, and let only the young generations be collected from now on."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, ALWAYS, NEVER)


async def keep_young() -> None:
    """Collect the young generations on a timer, too, until cancelled.

    The collector counts what was allocated less what was freed. Thousands of idle connections that are asked now and
    then whether they are there replace old objects by new ones: the count stays near zero, and the young generation
    grows until one collection of it takes half a second.
    """
    pause = INTERVAL
    while True:
        await trio.sleep(pause)
        began = time.perf_counter()
        gc.collect(1)
        pause = QUIET_INTERVAL if time.perf_counter() - began < QUICK else INTERVAL
