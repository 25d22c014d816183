"""`make bench`: the broker beside the floor and the peer, in one run, on one Redis.

Trust the CPU per delivery and the ratios; latencies on a busy machine say more about the machine.

    python -m tests.bench [--rounds 3] [--scenario NAME]... [--tls] [--json]
"""

import argparse
import json
import socket
import ssl
import statistics
from typing import Any

from broker.cli.bench_client import Address
from broker.cli.bench_load import Load, Run
from broker.cli.bench_publisher import Plan
from broker.cli.bench_report import as_record
from tests.bench.servers import CHANNEL, Rig, Server, running

SCENARIOS: dict[str, dict[str, Any]] = {
    "paced 50k/s": {"clients": 1000, "messages": 200, "rate": 50.0},
    "paced 200k/s": {"clients": 1000, "messages": 400, "rate": 200.0},
    "flooded": {"clients": 1000, "messages": 1000, "rate": 0.0},
    "few clients": {"clients": 100, "messages": 150, "rate": 50.0},
}
WINDOW = 50
HEAD = ("", "µs/delivery", "to floor", "to peer", "delivered/s", "p50 ms", "p99 ms", "conn/s", "KiB/conn", "lost")


def measure(rig: Rig, server: Server, clients: int, messages: int, rate: float) -> dict[str, Any]:
    """Load one server once."""
    context = None
    if rig.certificate is not None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    address = Address(socket.AF_INET, ("127.0.0.1", server.port), "127.0.0.1", server.target, context)
    redis = f"redis://127.0.0.1:{rig.redis_port}/0"
    plan = Plan(redis, ((CHANNEL, CHANNEL),), messages, 200, rate, WINDOW)
    return as_record(Run(Load(plan, clients, 1, 40.0, server.pid), address, lambda *_: None).run())


def medians(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of each figure."""
    flat = [record | {f"{name}_ms": value for name, value in record["latency_ms"].items()} for record in records]
    return {
        name: statistics.median(values)
        for name in flat[0]
        if isinstance(flat[0][name], (int, float)) and (values := [each[name] for each in flat])
    }


def compare(rig: Rig, scenario: str, rounds: int) -> dict[str, dict[str, Any]]:
    """Load every server in turn, `rounds` times, and return the medians with the broker's ratios."""
    runs: dict[str, list[dict[str, Any]]] = {server.name: [] for server in rig.servers}
    for _ in range(rounds):
        for server in rig.servers:
            runs[server.name].append(measure(rig, server, **SCENARIOS[scenario]))
    found = {name: medians(records) for name, records in runs.items()}
    cost = found["broker"]["broker_us_per_delivery"]
    for name in ("floor", "peer"):
        if name in found:
            found["broker"][f"to_{name}"] = round(cost / found[name]["broker_us_per_delivery"], 2)
    return found


def show(scenario: str, found: dict[str, dict[str, Any]]) -> None:
    """Print one table."""
    rows: list[tuple[str, ...]] = [HEAD]
    for name, figures in found.items():
        wanted = (
            "broker_us_per_delivery", "to_floor", "to_peer", "deliveries_per_second", "p50_ms", "p99_ms",
            "connections_per_second", "broker_kb_per_connection", "lost",
        )  # fmt: skip
        rows.append((name, *(f"{figures[key]:,.6g}" if key in figures else "-" for key in wanted)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(f"\n{scenario}")
    for row in rows:
        print("  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)), flush=True)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scenario", action="append", choices=list(SCENARIOS))
    parser.add_argument("--tls", action="store_true", help="wss, beside the peer only")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with running(tls=args.tls) as rig:
        for scenario in args.scenario or SCENARIOS:
            found = compare(rig, scenario, args.rounds)
            if args.json:
                print(json.dumps({"scenario": scenario, **found}), flush=True)
            else:
                show(scenario, found)


if __name__ == "__main__":
    main()
