"""What `signalbox bench` says at the end."""

import math
from typing import Any

import click

from broker.cli.bench_load import Outcome

_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}
_BAR = 40


def as_record(outcome: Outcome) -> dict[str, Any]:
    """Return all figures: times in the unit that their name ends with; those of the broker are None without --pid."""
    memory = None
    if outcome.memory is not None and outcome.memory_before is not None:
        memory = round((outcome.memory - outcome.memory_before) / outcome.clients, 1)
    return {
        "clients": outcome.clients,
        "messages": outcome.messages,
        "delivered": outcome.delivered,
        "lost": outcome.expected - outcome.delivered,
        "closed": outcome.closed,
        "seconds": round(outcome.seconds, 3),
        "deliveries_per_second": round(outcome.delivered / outcome.seconds) if outcome.seconds else 0,
        "latency_ms": {name: round(outcome.percentile(share), 3) for name, share in _SHARES.items()},
        "connections_per_second": round(outcome.clients / outcome.setup_seconds) if outcome.setup_seconds else 0,
        "broker_us_per_delivery": _each(outcome.cpu, outcome.delivered),
        "broker_us_per_connection": _each(outcome.setup_cpu, outcome.clients),
        "broker_kb_per_connection": memory,
    }


def _each(seconds: float | None, count: int) -> float | None:
    return round(seconds / count * 1e6, 2) if seconds is not None and count else None


def show(outcome: Outcome) -> None:
    """Print the figures for people, with the distribution of latencies."""
    record = as_record(outcome)
    latency = record["latency_ms"]
    lines = [
        ("delivered", f"{record['delivered']:,} of {outcome.expected:,} in {record['seconds']} s"),
        ("deliveries", f"{record['deliveries_per_second']:,} a second"),
        ("latency", "  ".join(f"{name} {value:g} ms" for name, value in latency.items())),
        ("connections", f"{record['connections_per_second']:,} a second"),
    ]
    if record["broker_us_per_delivery"] is not None:
        lines.append(("broker's CPU", f"{record['broker_us_per_delivery']} µs a delivery"))
        lines.append(("", f"{record['broker_us_per_connection']} µs a connection"))
        lines.append(("its memory", f"{record['broker_kb_per_connection']} KiB a new connection"))
    if outcome.closed:
        lines.append(("closed", f"{outcome.closed:,} clients while events were delivered"))
    for label, text in lines:
        click.echo(f"{label:<14}{text}")
    click.echo()
    _show_histogram(outcome)


def _show_histogram(outcome: Outcome) -> None:
    """Print a bar for each power of two of milliseconds."""
    counts: dict[int, int] = {}
    for latency in outcome.latencies:
        power = max(0, math.ceil(math.log2(max(latency, 1) / 125)))
        counts[power] = counts.get(power, 0) + 1
    most = max(counts.values(), default=1)
    for power in range(min(counts, default=0), max(counts, default=-1) + 1):
        count = counts.get(power, 0)
        bar = "█" * round(count / most * _BAR)
        click.echo(f"{'<= ' + format(0.125 * 2**power, 'g') + ' ms':>14}  {bar:<{_BAR}} {count:,}")
