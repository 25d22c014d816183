"""`make fuzz`, or `python -m tests.fuzz [--executions N] [--seed N] [TARGET ...]`: a million inputs."""

import argparse
import faulthandler
import sys
from pathlib import Path

from tests.fuzz import targets
from tests.fuzz.campaign import campaign

FINDINGS = Path("build/fuzz")


def main() -> int:
    """Run the targets that are named, all of them without a name; return 1 if anything was found."""
    options = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    options.add_argument("--executions", type=int, default=1_000_000, help="over all targets, by their shares")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("targets", nargs="*", choices=[*targets.NAMES, []])
    given = options.parse_args()
    chosen = [target for target in targets.ALL if not given.targets or target.name in given.targets]
    shares = sum(target.share for target in chosen)
    found = total = 0
    for target in chosen:
        faulthandler.dump_traceback_later(3600, exit=True)
        report = campaign(target, round(given.executions * target.share / shares), given.seed)
        total += report.executions
        found += len(report.findings)
        print(
            f"{target.name:14} {report.executions:8} executions  {report.outcomes:5} outcomes  {report.seconds:6.1f} s"
            f"  slowest {1000 * report.slowest:6.1f} ms  memory {report.growth_kib:+6} KiB"
            f"  {len(report.findings)} findings",
            flush=True,
        )
        for finding in report.findings:
            FINDINGS.mkdir(parents=True, exist_ok=True)
            path = FINDINGS / f"{target.name}-{finding.name}"
            path.write_bytes(finding.data)
            print(f"--- {path}: {finding.data!r}\n{finding.what}")
    print(f"{total} executions, {found} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
