"""How long a kill takes while one event channel is flooded.

A thousand browsers on one channel get 100,000 deliveries a second in all; beside them a hundred agents are killed one
after the other. Measured is the time from the call that publishes the kill to its arrival at the agent's socket. With
--stalled there are browsers on that channel, too, that read nothing at all: what does that cost the others?

    python -m tests.bench.fairness [--rate 100] [--agents 100] [--stalled 200]
"""

import argparse
import json
import socket
import statistics
import subprocess
import sys
import time

import redis

from broker.publisher import Publisher
from tests.bench.servers import CHANNEL, ROOT, Rig, running
from tests.support.lean_client import client_frame

ORGANIZATION = "bench"


class Agent:
    """A control socket that is read when its turn comes."""

    def __init__(self, rig: Rig) -> None:
        server = rig.servers[0]
        self._sock = socket.create_connection(("127.0.0.1", server.port), 10)
        self._data = b""
        key = server.target.partition("token=")[2]
        self._sock.sendall(
            f"GET /ws/control/{ORGANIZATION} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self.await_word(b"initial_state")

    def await_word(self, word: bytes) -> None:
        """Read until a word has come."""
        while word not in self._data:
            received = self._sock.recv(1 << 16)
            if not received:
                raise SystemExit(f"an agent was closed: {self._data[:200]!r}")
            self._data = self._data[-200:] + received


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=100.0, help="publications a second to 1,000 clients; 0: none")
    parser.add_argument("--agents", type=int, default=100)
    parser.add_argument("--stalled", type=int, default=0, help="browsers that do not read")
    args = parser.parse_args()
    with running(only_broker=True) as rig:
        agents = [Agent(rig) for _ in range(args.agents)]
        publisher = Publisher(redis.Redis(port=rig.redis_port))
        stalled = [_stalled(rig) for _ in range(args.stalled)]
        flood = _flood(rig, args.rate) if args.rate else None
        times = []
        for number, agent in enumerate(agents):
            workflow = f"wf-{number:03}"
            began = time.perf_counter()
            publisher.kill(ORGANIZATION, workflow)
            agent.await_word(workflow.encode())
            times.append((time.perf_counter() - began) * 1000)
            time.sleep(0.02)
        if flood is not None:
            figures = json.loads(flood.communicate()[0])
            late = figures["latency_ms"]
            print(
                f"flood: {figures['deliveries_per_second']:,} deliveries/s, p50 {late['p50']} ms  p99 {late['p99']} ms"
            )
        for browser in stalled:
            browser.close()
        cuts = statistics.quantiles(times, n=100, method="inclusive")
        print(f"kills: p50 {cuts[49]:.1f} ms  p90 {cuts[89]:.1f} ms  p99 {cuts[98]:.1f} ms  max {max(times):.1f} ms")


def _stalled(rig: Rig) -> socket.socket:
    """Return a browser that subscribes to the flooded channel and never reads again."""
    server = rig.servers[0]
    sock = socket.create_connection(("127.0.0.1", server.port), 10)
    sock.sendall(
        f"GET {server.target} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        + client_frame(json.dumps({"type": "subscribe", "channel": CHANNEL}).encode())
    )
    return sock


def _flood(rig: Rig, rate: float) -> "subprocess.Popen[bytes]":
    """Begin to load the broker, and return when its clients are connected and events flow."""
    server = rig.servers[0]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.flood", str(server.port), str(rig.redis_port), server.target, str(rate)],
        stdout=subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    return process


if __name__ == "__main__":
    main()
