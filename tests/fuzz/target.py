"""What a fuzz target is."""

from collections.abc import Awaitable, Callable, Sequence

import attrs

__all__ = ["Target", "pieces"]

Outcome = object
"""What an input did, roughly: inputs that do something new are worth building upon. It must be hashable."""


@attrs.frozen
class Target:
    """Something that reads bytes from outside.

    Attributes:
        name: for people and files.
        corpus: good inputs.
        words: what such inputs are made of.
        run: takes an input; raises for whatever must never happen. Called on Trio's clock, which jumps.
        share: how many inputs it gets, compared with the others: the slow ones get fewer.
    """

    name: str
    corpus: Sequence[bytes]
    words: Sequence[bytes]
    run: Callable[[bytes], Outcome] | None = None
    run_async: Callable[[bytes], Awaitable[Outcome]] | None = None
    share: float = 1.0


def pieces(data: bytes) -> list[bytes]:
    """Cut an input where its own bytes say so: the same input is always cut alike."""
    found, at = [], 0
    while at < len(data):
        size = 1 + (data[at] * 7 + at) % 23
        found.append(data[at : at + size])
        at += size
    return found
