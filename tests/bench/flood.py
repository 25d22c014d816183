"""The flood beside which kills are measured, as a process of its own: says when events flow, and what came of it.

python -m tests.bench.flood PORT REDIS_PORT TARGET RATE
"""

import json
import socket
import sys

from broker.cli.bench_client import Address
from broker.cli.bench_load import Load, Run
from broker.cli.bench_publisher import Plan
from broker.cli.bench_report import as_record
from tests.bench.servers import CHANNEL

CLIENTS = 1000
SECONDS = 8


def main(port: int, redis_port: int, target: str, rate: float) -> None:
    """Run it."""
    said: list[str] = []

    def tell(what: str, done: int, _of: int) -> None:
        if what == "delivering" and done and not said:
            said.append(what)
            print(what, flush=True)

    address = Address(socket.AF_INET, ("127.0.0.1", port), "127.0.0.1", target, None)
    plan = Plan(f"redis://127.0.0.1:{redis_port}/0", ((CHANNEL, CHANNEL),), int(rate * SECONDS), 200, rate, 0)
    print(json.dumps(as_record(Run(Load(plan, CLIENTS, 1, 40.0, None), address, tell).run())), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4]))
