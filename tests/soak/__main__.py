"""`make soak`, or `python -m tests.soak [FOLDER]`: SOAK_MINUTES (30) of load; writes soak.csv and soak.svg."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import trio

from tests.soak.plan import Plan
from tests.soak.plot import draw
from tests.soak.run import Outcome, soak
from tests.soak.sampling import Sample, save


def main(folder: Path) -> int:
    """Run, print the figures, and return 1 if something was wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    minutes = float(os.environ.get("SOAK_MINUTES", "30"))
    outcome = trio.run(soak, Plan(seconds=60 * minutes), _tell)
    save(outcome.samples, folder / "soak.csv")
    (folder / "soak.svg").write_text(draw(outcome.samples))
    print(json.dumps(_figures(outcome), indent=2))
    wrong = outcome.problems + outcome.unsteady
    for problem in wrong:
        print(f"  {problem}")
    print("FAILED" if wrong else "flat, and nobody missed anything")
    return 1 if wrong else 0


def _tell(sample: Sample) -> None:
    """One line a minute."""
    if sample.seconds % 60 < 5:
        print(
            f"{sample.seconds / 60:4.0f} min  {sample.rss_kib / 1024:.1f} MiB  {sample.descriptors} descriptors"
            f"  {sample.cpu_percent:g} %  lag {sample.lag_p99_ms:g} ms",
            flush=True,
        )


def _figures(outcome: Outcome) -> dict[str, object]:
    samples = outcome.samples
    minute = max(1, round(len(samples) / 6))
    wanted = ("key_lookups_total", "publications_total", "deliveries_total", "control_sent_total", "acks_total")
    more = ("control_resent_total", "control_repairs_total", "gap_repairs_total", "accepted_total", "crashes_total")
    return {
        "minutes": round(samples[-1].seconds / 60, 1),
        "second sixth": _medians(samples[minute : 2 * minute]),
        "last sixth": _medians(samples[-minute:]),
        "cpu percent": median(sample.cpu_percent for sample in samples),
        "complaints": outcome.ledger.complained,
        **dict(sorted(outcome.ledger.counts.items())),
        **{name: outcome.metrics.get(f"signalbox_{name}") for name in wanted + more},
    }


def _medians(samples: Sequence[Sample]) -> dict[str, float]:
    fields = ("rss_kib", "descriptors", "viewers", "agents", "lag_p50_ms", "lag_p99_ms", "lag_mean_ms")
    return {field: median(getattr(sample, field) for sample in samples) for field in fields} if samples else {}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("docs"), help="where the figures and the plot go")
    sys.exit(main(parser.parse_args().folder))
