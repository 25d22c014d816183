"""Giving one target many inputs, and watching how long they take and what they leave behind."""

import hashlib
import random
import time
import traceback
from pathlib import Path

import attrs
import structlog
import trio
import trio.testing

from tests.fuzz.mutate import Mutator
from tests.fuzz.target import Target

__all__ = ["Finding", "Report", "campaign"]

SLOW_SECONDS = 0.5
"""CPU time that no input may take."""

GROWTH_KIB = 16384
"""How much memory may grow after the first fifth of the inputs: the corpus grows, too."""

MAX_FINDINGS = 10


@attrs.frozen
class Finding:
    """An input that did what must not be."""

    data: bytes
    what: str

    @property
    def name(self) -> str:
        """For a file."""
        return hashlib.sha256(self.data).hexdigest()[:12]


@attrs.frozen
class Report:
    """What came of a campaign.

    Attributes:
        executions: inputs given.
        outcomes: how many different things they did.
        seconds: of CPU.
        slowest: input, in seconds of CPU.
        growth_kib: memory at the end, less that after the first fifth.
    """

    executions: int
    outcomes: int
    seconds: float
    slowest: float
    growth_kib: int
    findings: list[Finding]


async def _run(target: Target, executions: int, seed: int) -> Report:
    mutator = Mutator(target.corpus, target.words, random.Random(f"{target.name} {seed}"))
    outcomes: set[object] = set()
    findings: dict[str, Finding] = {}
    slowest, began, early = 0.0, time.process_time(), _rss_kib()
    for number in range(executions):
        if number == executions // 5:
            early = _rss_kib()
        data = target.corpus[number] if number < len(target.corpus) else mutator.draw()
        before = time.process_time()
        try:
            outcome = target.run(data) if target.run is not None else None
            if target.run_async is not None:
                outcome = await target.run_async(data)
                if not number % 16:
                    await trio.lowlevel.checkpoint()
            if outcome not in outcomes:
                outcomes.add(outcome)
                mutator.keep(data)
        except Exception as error:  # noqa: BLE001  that is what is looked for
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{type(error).__name__} {place.filename}:{place.lineno}"
            if where not in findings and len(findings) < MAX_FINDINGS:
                findings[where] = Finding(data, "".join(traceback.format_exception(error)))
        took = time.process_time() - before
        slowest = max(slowest, took)
        if took > SLOW_SECONDS:
            findings.setdefault("slow", Finding(data, f"took {took:.2f} s"))
    growth = _rss_kib() - early
    if growth > GROWTH_KIB:
        findings["memory"] = Finding(b"", f"memory grew by {growth} KiB")
    return Report(executions, len(outcomes), time.process_time() - began, slowest, growth, list(findings.values()))


def campaign(target: Target, executions: int, seed: int) -> Report:
    """Give a target so many inputs, drawn by a seed."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    logging = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), cache_logger_on_first_use=False)
    try:
        return trio.run(_run, target, executions, seed, clock=clock)
    finally:
        structlog.configure(**logging)


def _rss_kib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4
