"""Running Autobahn's cases, by kosoku, against a broker of its own."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import attrs
from kosoku import FailureError, run_fuzzingclient

from tests.conformance.broker import ECHO_PATH, TLS
from tests.conformance.unwrap import plain_way_to

__all__ = ["Mode", "Outcome", "run_mode"]

GOOD = frozenset({"OK", "NON-STRICT", "INFORMATIONAL"})


@attrs.frozen
class Mode:
    """One way of running cases.

    Attributes:
        name: for people.
        cases: ids, or globs of them.
        options: for `tests.conformance.broker`.
        at_once: how many cases run at the same time.
    """

    name: str
    cases: tuple[str, ...]
    options: tuple[str, ...] = ()
    at_once: int = 1


@attrs.frozen
class Outcome:
    """The verdict on one case: what Autobahn says of the messages, and of the close."""

    case: str
    behavior: str
    close: str
    what: str

    @property
    def group(self) -> int:
        """The first number of the case's id."""
        return int(self.case.partition(".")[0])

    @property
    def good(self) -> bool:
        """Whether nothing has failed."""
        return self.behavior in GOOD and self.close in GOOD


def run_mode(mode: Mode) -> list[Outcome]:
    """Run a mode's cases; the broker must still be well afterwards."""
    with _broker(mode.options) as where:
        return asyncio.run(_run(where, mode))


def tally(outcomes: Sequence[Outcome]) -> dict[int, Counter[str]]:
    """Return, for each group, how many cases had which verdict."""
    groups: dict[int, Counter[str]] = {}
    for outcome in outcomes:
        verdict = outcome.behavior if outcome.good or outcome.behavior not in GOOD else f"close {outcome.close}"
        groups.setdefault(outcome.group, Counter())[verdict] += 1
    return groups


async def _run(where: str, mode: Mode) -> list[Outcome]:
    way = plain_way_to(where) if TLS in mode.options else nullcontext(where)
    async with way as address:
        try:
            results = await run_fuzzingclient(f"ws://{address}{ECHO_PATH}", list(mode.cases), concurrency=mode.at_once)
        except FailureError as failure:
            results = failure.results
    return [
        Outcome(result.case_id, result.behavior.value, result.behavior_close.value, result.description)
        for result in results
    ]


@contextmanager
def _broker(options: Sequence[str]) -> Iterator[str]:
    """Run a broker until the end of the block, and yield where it listens; it must end well."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.conformance.broker", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        log = []
        for line in process.stderr:
            log.append(line)
            record = json.loads(line) if line.startswith("{") else {}
            if record.get("event") == "listening":
                yield str(record["on"][0])
                break
        else:
            raise AssertionError("the broker did not start:\n" + "".join(log))
        process.terminate()
        log += process.stderr.readlines()
        errors = [line for line in log if '"level":"error"' in line.replace(" ", "")]
        if process.wait(30) != 0 or errors:
            raise AssertionError("the broker did not stay well:\n" + (errors or log)[0])
    finally:
        process.kill()
        process.communicate()
