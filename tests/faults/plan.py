"""What is broken when: drawn from the seed alone."""

import random
from collections.abc import Iterator

import attrs

from tests.faults.proxy import LINKS

WEIGHTS = {
    "store restart": 6,
    "store loss": 0,
    "store set back": 0,
    "broker kill": 8,
    "broker restart": 3,
    "broker stall": 4,
    "links cut": 8,
    "links refused": 4,
    "links stall": 8,
    "pubsub killed": 8,
    "silent loss": 10,
    "agent stall": 8,
    "agent cut": 5,
    "agent half open": 5,
    "browser cut": 5,
    "flood": 4,
}


@attrs.frozen
class Fault:
    """One thing that breaks.

    Attributes:
        what: a name of `WEIGHTS`.
        after: seconds since the one before.
        target: which broker, agent or browser, modulo their number.
        links: which links, where it is about links.
        seconds: for how long.
    """

    what: str
    after: float
    target: int
    links: tuple[str, ...]
    seconds: float


def draw(seed: int, seconds: float) -> Iterator[Fault]:
    """Return the faults of a run, about one a second; every fourth seed loses the store, or sets it back, once."""
    dice = random.Random(f"plan {seed}")
    names, weights = list(WEIGHTS), list(WEIGHTS.values())
    loss = {2: "store loss", 3: "store set back"}.get(seed % 4)
    loss_at = seconds * dice.uniform(0.3, 0.7)
    now = 0.0
    while True:
        after = dice.uniform(0.1, 1.0)
        now += after
        if now > seconds:
            return
        what = dice.choices(names, weights)[0]
        if loss is not None and now > loss_at:
            what, loss = loss, None
        yield Fault(
            what=what,
            after=after,
            target=dice.randrange(1000),
            links=tuple(link for link in LINKS if dice.random() < 0.6) or LINKS,
            seconds=dice.choice((0.0, 0.1, 0.5, 1.0, 2.0, 3.0)) if dice.random() < 0.97 else 12.0,
        )
