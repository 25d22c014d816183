"""Whether cost stays flat: CPU per delivery as clients and channels grow, at 50,000 deliveries a second.

python -m tests.bench.flat [--json]
"""

import json
import socket
import sys
import time

from broker.cli.bench_client import Address
from broker.cli.bench_load import Load, Run
from broker.cli.bench_publisher import Plan
from broker.cli.bench_report import as_record
from tests.bench.servers import Rig, running

DELIVERIES_PER_SECOND = 50_000
SECONDS = 4

CASES = [
    # clients, channels, channels of each client
    (100, 1, 1),
    (1_000, 1, 1),
    (10_000, 1, 1),
    (1_000, 100, 1),  # from here on every publication has ten listeners
    (1_000, 1_000, 10),
    (1_000, 10_000, 100),
    (1_000, 200, 10),  # and here fifty
]

PAUSE = 6
"""Seconds between two cases, in which the broker sees its former clients off."""


def measure(rig: Rig, clients: int, channels: int, per_client: int) -> dict[str, object]:
    """Run one case."""
    server = rig.servers[0]
    listeners = clients * min(per_client, channels) / channels
    rate = DELIVERIES_PER_SECOND / listeners
    names = tuple((f"workflow:bench-{number}",) * 2 for number in range(channels))
    plan = Plan(f"redis://127.0.0.1:{rig.redis_port}/0", names, round(rate * SECONDS), 200, rate, 0)
    address = Address(socket.AF_INET, ("127.0.0.1", server.port), "127.0.0.1", server.target, None)
    return as_record(Run(Load(plan, clients, per_client, 60.0, server.pid), address, lambda *_: None).run())


def main() -> None:
    """Run all cases."""
    with running(only_broker=True) as rig:
        for clients, channels, per_client in CASES:
            figures = measure(rig, clients, channels, per_client)
            if "--json" in sys.argv:
                print(json.dumps({"channels": channels, "per_client": per_client, **figures}), flush=True)
            else:
                print(
                    f"{clients:>6} clients, {channels:>6} channels, {per_client:>2} each: "
                    f"{figures['broker_us_per_delivery']} µs/delivery, latency {figures['latency_ms']}, "
                    f"{figures['broker_us_per_connection']} µs/connection, lost {figures['lost']}",
                    flush=True,
                )
            time.sleep(PAUSE)


if __name__ == "__main__":
    main()
