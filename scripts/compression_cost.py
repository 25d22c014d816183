"""What compression costs and saves: one broker, event sockets that agreed on it and others that did not.

    python scripts/compression_cost.py [SUBSCRIBERS ...]

Prints, for events of several sizes, the broker's CPU for each delivery and the bytes that each delivery puts on the
wire. Events look like what agents say: a few identifiers, a state, numbers, a sentence or two.
"""

import json
import os
import random
import resource
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

SIZES = (200, 350, 1000, 4000, 16000)
DELIVERIES = 150_000
TRAFFIC = 800_000_000
PAUSE = 0.004
CHANNEL = "workflow:measured"
SENTENCE = "the model has called a tool that returned no error so we go on to the next step of the plan"


def event(size: int) -> bytes:
    """Return an event of at least so many bytes."""
    chance = random.Random(size)
    steps: list[dict[str, object]] = []
    made = {"type": "node_status", "channel": CHANNEL, "timestamp": time.time(), "data": {"node": "n1", "steps": steps}}
    while len(json.dumps(made)) < size:
        steps.append(
            {
                "id": f"{chance.getrandbits(64):x}",
                "status": chance.choice(["running", "done", "failed"]),
                "tokens": chance.randrange(100_000),
                "message": " ".join(chance.choice(SENTENCE.split()) for _ in range(chance.randrange(4, 16))),
            }
        )
    return json.dumps(made).encode()


def subscriber(where: tuple[str, int], token: str, compressed: bool) -> socket.socket:
    """Open an event socket and subscribe."""
    sock = socket.create_connection(where)
    offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" if compressed else ""
    sock.sendall(
        f"GET /ws/?token={token} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offer}\r\n".encode()
    )
    message = json.dumps({"type": "subscribe", "channel": CHANNEL}).encode()
    sock.sendall(bytes((0x81, 0x80 | len(message))) + bytes(4) + message)
    seen = b""
    while b"subscribed" not in seen:
        seen += sock.recv(4096)
    assert (b"permessage-deflate" in seen) is compressed
    sock.setblocking(False)
    return sock


class Reader(threading.Thread):
    """Reads all sockets, and counts their bytes."""

    def __init__(self, socks: list[socket.socket]) -> None:
        super().__init__(daemon=True)
        self.total = 0
        self.over = False
        self._selector = selectors.DefaultSelector()
        for sock in socks:
            self._selector.register(sock, selectors.EVENT_READ)

    def run(self) -> None:
        """Read until `over`."""
        while not self.over:
            for key, _ in self._selector.select(0.1):
                self.total += len(key.fileobj.recv(1 << 16))  # type: ignore[union-attr]

    def wait_quiet(self) -> None:
        """Wait until nothing more comes."""
        before = -1
        while before != self.total:
            before = self.total
            time.sleep(1.0)


@contextmanager
def broker() -> Iterator[tuple[int, tuple[str, int], redis.Redis, str]]:
    """Run a broker; yields its process id, its address, its store and a token."""
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "signalbox.toml"
        config.write_text(
            f'[server]\nbind = "127.0.0.1:0"\n[admin]\nbind = ""\n[redis]\ndata_dir = "{directory}/data"\n'
            '[events]\ncompression = true\nping_interval = 3600\n[log]\nformat = "json"\n'
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "broker", "serve", "--config", str(config)], stderr=subprocess.PIPE, text=True
        )
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if '"listening"' in line:
                    host, _, port = json.loads(line)["on"][0].rpartition(":")
                    break
            else:
                raise SystemExit("the broker did not start")
            made = subprocess.run(
                [sys.executable, "-m", "broker", "keys", "add", "--config", str(config), "--org", "a", "--json"],
                check=True,
                capture_output=True,
            )
            store = redis.Redis(unix_socket_path=f"{directory}/data/valkey.sock")
            yield process.pid, (host, int(port)), store, json.loads(made.stdout)["api_key"]
        finally:
            process.terminate()
            process.wait()


def cpu(pid: int) -> float:
    """Return the CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(crowds: list[int]) -> None:
    """Measure with each number of subscribers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    print("subscribers  event bytes  wire bytes          CPU us/delivery")
    print("                          plain  compressed   plain  compressed")
    with broker() as (pid, where, store, token):
        for crowd in crowds:
            results: dict[tuple[int, bool], tuple[float, float]] = {}
            for compressed in (False, True):
                socks = [subscriber(where, token, compressed) for _ in range(crowd)]
                reader = Reader(socks)
                reader.start()
                for size in SIZES:
                    payload = event(size)
                    rounds = max(20, min(2000, DELIVERIES // crowd, TRAFFIC // (crowd * size)))
                    total, used = reader.total, cpu(pid)
                    for _ in range(rounds):
                        store.publish(CHANNEL, payload)
                        time.sleep(PAUSE + crowd * (1e-5 + size * 1e-8))
                    reader.wait_quiet()
                    deliveries = rounds * crowd
                    results[size, compressed] = (
                        (reader.total - total) / deliveries,
                        (cpu(pid) - used) / deliveries * 1e6,
                    )
                    assert compressed or results[size, False][0] > len(payload), f"lost at {size}: {results}"
                reader.over = True
                reader.join()
                for sock in socks:
                    sock.close()
            for size in SIZES:
                (plain, plain_cpu), (packed, packed_cpu) = results[size, False], results[size, True]
                print(
                    f"{crowd:>11}  {len(event(size)):>11}  {plain:>5.0f}  {packed:>10.0f}"
                    f"  {plain_cpu:>6.1f}  {packed_cpu:>10.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or [1000, 100, 10, 1])
