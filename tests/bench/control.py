"""What a change costs on the control plane: ten organizations, each with agents of its own, everything signed.

Workflows are paused and resumed in turns. Every agent verifies what it gets and acknowledges each pause. Measured are
the broker's CPU, and the time from the call that publishes to each agent's having the message.

    python -m tests.bench.control [--organizations 10] [--agents 100] [--rate 20] [--changes 200]
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import attrs
import orjson
import redis
import trio

from broker.publisher import Publisher
from protocol.signing import EMPTY_BODY_HASH, signature, verify_envelope
from tests.bench.servers import ROOT, Rig, running
from tests.support.lean_client import LeanClient

WORKFLOW = "wf-1"


@attrs.define
class Organization:
    """One of them: its name, its key and secret, when it was last told something, and who has heard it since."""

    name: str
    api_key: str
    secret: str
    told: float = 0.0
    heard: int = 0


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--organizations", type=int, default=10)
    parser.add_argument("--agents", type=int, default=100, help="of each organization")
    parser.add_argument("--rate", type=float, default=20.0, help="changes a second, of all organizations")
    parser.add_argument("--changes", type=int, default=200)
    args = parser.parse_args()
    with running(only_broker=True) as rig:
        organizations = [_add_organization(rig, f"org-{number}") for number in range(args.organizations)]
        times: list[float] = []
        spent = trio.run(_measure, rig, organizations, args, times)
    deliveries = args.changes * args.agents
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    print(f"{args.organizations} organizations, {args.agents} agents each, {args.rate:g} changes a second")
    print(f"{spent / args.changes:,.0f} µs a change, {spent / deliveries:.1f} µs a delivery")
    print(
        f"{len(times):,} of {deliveries:,} came, p50 {cuts[49]:.1f} ms  p99 {cuts[98]:.1f} ms  max {max(times):.1f} ms"
    )


def _add_organization(rig: Rig, name: str) -> Organization:
    made = subprocess.run(
        [sys.executable, "-m", "broker", "keys", "add", "--config", str(rig.config), "--org", name, "--json"],
        check=True, capture_output=True, cwd=ROOT,
    )  # fmt: skip
    key = json.loads(made.stdout)
    return Organization(name, key["api_key"], key["secret_key"])


async def _measure(rig: Rig, organizations: list[Organization], args: argparse.Namespace, times: list[float]) -> float:
    """Return the broker's CPU for all changes, in microseconds."""
    publisher = Publisher(redis.Redis(port=rig.redis_port))
    async with trio.open_nursery() as agents:
        for organization in organizations:
            for _ in range(args.agents):
                await agents.start(_be_agent, rig, organization, times)
        await trio.sleep(1)
        before, begun = _cpu(rig.servers[0].pid), trio.current_time()
        for number in range(args.changes):
            await trio.sleep_until(begun + number / args.rate)
            turn, place = divmod(number, len(organizations))
            organization = organizations[place]
            change = publisher.resume if turn % 2 else publisher.pause
            organization.told, organization.heard = time.perf_counter(), 0
            await trio.to_thread.run_sync(partial(change, organization.name, WORKFLOW))
        with trio.move_on_after(10):
            # ASYNC110 wants an event, which a thousand agents would look at for what happens once
            while any(each.heard < args.agents for each in organizations):  # noqa: ASYNC110  see above
                await trio.sleep(0.01)
        spent = _cpu(rig.servers[0].pid) - before
        agents.cancel_scope.cancel()
    return spent


async def _be_agent(
    rig: Rig, organization: Organization, times: list[float], task_status: trio.TaskStatus[None]
) -> None:
    """Be connected, verify, acknowledge; started with the snapshot."""
    now = int(time.time())
    key, secret = organization.api_key, organization.secret
    headers = {
        "X-API-Key": key,
        "X-Signature": signature(secret, now, key, EMPTY_BODY_HASH),
        "X-Signature-Timestamp": str(now),
    }
    address = ("127.0.0.1", rig.servers[0].port)
    client = await LeanClient.connect(address, f"/ws/control/{organization.name}", headers)
    while True:
        for payload in await client.receive():
            message = orjson.loads(verify_envelope(payload, secret, api_key=key))
            if message["type"] == "initial_state":
                task_status.started()
                continue
            times.append((time.perf_counter() - organization.told) * 1000)
            organization.heard += 1
            if message["state"] == "Paused":
                ack = {"type": "ack", "message_id": message["message_id"], "received_at": int(time.time())}
                await client.send(orjson.dumps(ack))


def _cpu(pid: int) -> float:
    """Return the CPU that a process has used, in microseconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1000


if __name__ == "__main__":
    main()
