"""`python -m tests.faults`: many seeds, one after the other."""

import argparse
import json
import sys
import traceback
from collections import Counter

import trio

from tests.faults.run import run


def seeds_of(text: str) -> list[int]:
    """Read "3", "1-20" or "4,7,9"."""
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def main() -> int:
    """Run the seeds; returns how many of them failed."""
    options = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    options.add_argument("--seeds", type=seeds_of, default=seeds_of("1-5"), help='such as "7" or "1-20"')
    options.add_argument("--seconds", type=float, default=15.0, help="how long each breaks things")
    arguments = options.parse_args()
    total: Counter[str] = Counter()
    failed = []
    for seed in arguments.seeds:
        try:
            result = trio.run(run, seed, arguments.seconds)
        except Exception:  # noqa: BLE001  the other seeds are run all the same
            traceback.print_exc()
            failed.append(seed)
            continue
        figures = {name: value for name, value in result.figures.items() if not isinstance(value, dict)}
        total.update({name: value for name, value in figures.items() if isinstance(value, int)})
        total.update({f"fault: {name}": count for name, count in result.figures["faults"].items()})
        print(f"seed {seed}: {'ok' if not result.violations else 'FAILED'} {json.dumps(result.figures)}", flush=True)
        for violation in result.violations:
            print(f"  {violation}", flush=True)
        if result.violations:
            failed.append(seed)
            print(f"  logs: {result.folder}", flush=True)
    print(json.dumps({"seeds": len(arguments.seeds), "failed": failed, **dict(sorted(total.items()))}, indent=2))
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
