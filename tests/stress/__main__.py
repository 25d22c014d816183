"""`make stress`, or `python -m tests.stress [--seed N] [--browsers N]`: everything at once, for about a minute."""

import argparse
import json
import sys

import attrs
import trio

from tests.stress.plan import Plan
from tests.stress.run import stress


def main() -> int:
    """Run, print the figures, and return 1 if something was wrong."""
    options = argparse.ArgumentParser(prog="python -m tests.stress", description=__doc__)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--browsers", type=int, default=Plan().browsers)
    given = options.parse_args()
    outcome = trio.run(stress, attrs.evolve(Plan(), browsers=given.browsers), given.seed, _say)
    print(json.dumps({**outcome.figures, **dict(sorted(outcome.ledger.counts.items()))}, indent=2))
    for complaint in outcome.ledger.complaints:
        print(f"  {complaint}")
    print(f"FAILED: {outcome.ledger.complained} complaints" if outcome.ledger.complained else "all is well")
    return 1 if outcome.ledger.complained else 0


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
