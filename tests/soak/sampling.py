"""Looking at the broker from outside: /proc, and its own metrics."""

import csv
import os
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

__all__ = ["FIELDS", "Sample", "Sampler", "save"]

BUCKETS = "signalbox_loop_lag_seconds_bucket"


@attrs.frozen
class Sample:
    """The broker at one moment; rates and lags are of the time since the sample before.

    Attributes:
        seconds: since the load began.
        rss_kib: memory in RAM.
        descriptors: open ones.
        threads: of the process.
        cpu_percent: of one core.
        runqueue_percent: how much of the time its main thread was ready to run, and the machine had no core for it.
        lag_p50_ms, lag_p99_ms: upper bounds of how long the passes of the loop took, in buckets.
        lag_mean_ms: its mean.
        viewers, agents: open sockets.
        subscriptions: of all viewers.
        deliveries: events delivered a second.
        pending_bytes: what waits for clients.
    """

    seconds: float
    rss_kib: int
    descriptors: int
    threads: int
    cpu_percent: float
    runqueue_percent: float
    lag_p50_ms: float
    lag_p99_ms: float
    lag_mean_ms: float
    viewers: int
    agents: int
    subscriptions: int
    deliveries: float
    pending_bytes: int


FIELDS = tuple(field.name for field in attrs.fields(Sample))


@attrs.frozen
class _Look:
    """What is read of a running total."""

    at: float
    cpu_seconds: float
    waited_seconds: float
    metrics: Mapping[str, float]


class Sampler:
    """Takes samples of one process.

    Args:
        pid: of the broker.
        metrics: the URL of its metrics.
    """

    def __init__(self, pid: int, metrics: str) -> None:
        self._proc = Path(f"/proc/{pid}")
        self._url = metrics
        self._before: _Look | None = None

    def start(self) -> None:
        """Take the first look, at second 0. Blocks."""
        self._before = self._look(0.0)

    def sample(self, at: float) -> Sample:
        """Look now; `at` are the seconds since the load began. Blocks. Raises OSError if the broker is gone."""
        before, look = self._before, self._look(at)
        assert before is not None, "start first"
        self._before = look
        status = dict(line.split(":", 1) for line in (self._proc / "status").read_text().splitlines() if ":" in line)
        past = look.at - before.at
        now = look.metrics
        lags = {
            name: now[name] - before.metrics.get(name, 0.0) for name in now if name.startswith("signalbox_loop_lag_sec")
        }
        return Sample(
            seconds=round(at, 1),
            rss_kib=int(status["VmRSS"].split()[0]),
            descriptors=sum(1 for _ in (self._proc / "fd").iterdir()),
            threads=int(status["Threads"]),
            cpu_percent=round(100 * (look.cpu_seconds - before.cpu_seconds) / past, 1),
            runqueue_percent=round(100 * (look.waited_seconds - before.waited_seconds) / past, 1),
            lag_p50_ms=_quantile(lags, 0.5),
            lag_p99_ms=_quantile(lags, 0.99),
            lag_mean_ms=round(
                1000 * lags["signalbox_loop_lag_seconds_sum"] / (lags["signalbox_loop_lag_seconds_count"] or 1), 2
            ),
            viewers=int(now['signalbox_connections{kind="events"}']),
            agents=int(now['signalbox_connections{kind="control"}']),
            subscriptions=int(now["signalbox_subscriptions"]),
            deliveries=round(
                (now["signalbox_deliveries_total"] - before.metrics["signalbox_deliveries_total"]) / past, 1
            ),
            pending_bytes=int(sum(value for name, value in now.items() if "outbox_pending_bytes{" in name)),
        )

    def metrics(self) -> dict[str, float]:
        """Read the broker's metrics: name with labels -> value."""
        with urllib.request.urlopen(self._url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def _look(self, at: float) -> _Look:
        fields = (self._proc / "stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        waited = int((self._proc / "schedstat").read_text().split()[1]) / 1e9
        return _Look(at, ticks / os.sysconf("SC_CLK_TCK"), waited, self.metrics())


def _quantile(lags: Mapping[str, float], share: float) -> float:
    """The upper bound, in ms, of the bucket with this share of the measurements; -1 if it is above all."""
    wanted = share * lags["signalbox_loop_lag_seconds_count"]
    bounds = {
        float(name.split('"')[1]): count
        for name, count in lags.items()
        if name.startswith(BUCKETS) and "Inf" not in name
    }
    return next((round(1000 * bound, 1) for bound in sorted(bounds) if bounds[bound] >= wanted), -1.0)


def save(samples: Sequence[Sample], path: Path) -> None:
    """Write samples as CSV."""
    with path.open("w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(FIELDS)
        writer.writerows(attrs.astuple(sample) for sample in samples)
