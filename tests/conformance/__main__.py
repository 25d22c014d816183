"""All of Autobahn's cases in every mode: `make conformance`, or `python -m tests.conformance [MODE ...]`."""

import argparse
import sys
import time

from tests.conformance.suite import Mode, run_mode, tally

PROTOCOL = ("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*")
LIMITS = ("9.*",)
COMPRESSION = ("12.*", "13.*")
CUT_COMPRESSION = ("12.1.1", "12.1.4", "12.1.11", "12.2.3", "12.5.11", "13.1.3", "13.3.5", "13.5.11", "13.7.12")

MODES = (
    Mode("kind", (*PROTOCOL, *LIMITS)),
    Mode("every-byte", PROTOCOL, ("--read", "1")),
    Mode("random-cuts", (*PROTOCOL, *LIMITS), ("--read", "4096", "--seed", "1")),
    Mode("partial-writes", (*PROTOCOL, *LIMITS), ("--write", "64", "--seed", "2")),
    Mode("small-buffer", (*PROTOCOL, *LIMITS), ("--send-buffer", "1")),
    Mode("all-at-once", PROTOCOL, ("--read", "7", "--write", "3", "--send-buffer", "1", "--seed", "3")),
    Mode("tls", (*PROTOCOL, *LIMITS), ("--tls",)),
    Mode("tls-cuts", (*PROTOCOL, *LIMITS), ("--tls", "--read", "512", "--write", "64", "--seed", "5")),
    Mode("compressed", COMPRESSION, at_once=2),
    Mode("compressed-cuts", CUT_COMPRESSION, ("--read", "64", "--write", "64", "--seed", "4")),
)


def main() -> int:
    """Run the modes that are named, all of them without a name; return 1 if a case failed."""
    options = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    known = [mode.name for mode in MODES]
    options.add_argument(
        "modes", nargs="*", metavar="MODE", help=f"one of {', '.join(known)}; without any: all of them"
    )
    names = options.parse_args().modes
    if unknown := set(names).difference(known):
        options.error(f"there is no mode {', '.join(sorted(unknown))}")
    failed = 0
    for mode in MODES:
        if names and mode.name not in names:
            continue
        began = time.monotonic()
        outcomes = run_mode(mode)
        print(f"{mode.name}: {len(outcomes)} cases in {time.monotonic() - began:.0f} s", flush=True)
        for group, verdicts in sorted(tally(outcomes).items()):
            print(f"  {group:>2}  " + ", ".join(f"{verdict} {count}" for verdict, count in sorted(verdicts.items())))
        bad = [outcome for outcome in outcomes if not outcome.good]
        for outcome in bad:
            print(f"  {outcome.case} {outcome.behavior}, close {outcome.close}: {outcome.what}")
        failed += len(bad) or not outcomes
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
