"""What Python itself costs: the innermost loop of the fan-out beside a loop in C over the same sockets.

Nothing else is in it: no Redis, no event loop, no protocol. What the broker costs beyond this is ours; this is not. The
fan-out writes to many sockets with one system call where it can (io_uring), and to one after the other elsewhere.

    python -m tests.bench.loop [--clients 1000] [--rounds 100]
"""

import argparse
import ctypes
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import trio

from broker.events.fanout import SLICE
from broker.events.roster import Roster
from broker.wire.outbox import Outbox
from broker.wire.plain import PlainWire
from broker.wire.ring import Ring
from protocol.frames import text_frame
from tests.bench.servers import HERE

PAUSE = 0.02
"""Seconds between two rounds, as at 50 events a second: what a loop needs has left the caches by then."""


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=100)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="signalbox-bench-") as folder:
        program, library = Path(folder) / "clients", Path(folder) / "loop.so"
        subprocess.run(["cc", "-O2", "-o", program, HERE / "loop.c"], check=True)
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, HERE / "loop.c"], check=True)
        listener = socket.create_server(("127.0.0.1", 0), backlog=args.clients)
        with subprocess.Popen([program, str(listener.getsockname()[1]), str(args.clients)]) as clients:
            try:
                wires = trio.run(_accepted, listener, args.clients)
                medians = _measure(wires, ctypes.CDLL(str(library)), args.rounds)
            finally:
                clients.kill()
    in_c = medians["C"]
    print(f"{args.clients} clients, µs a write (and beside C):")
    for name, median in medians.items():
        print(f"  {name:16} {median:5.2f}  {median / in_c:.2f}")


async def _accepted(listener: socket.socket, count: int) -> list[PlainWire]:
    """Return connections as the broker has them; a wire looks at Trio's clock when it is made."""
    return [PlainWire(listener.accept()[0]) for _ in range(count)]


def _measure(wires: list[PlainWire], library: ctypes.CDLL, rounds: int) -> dict[str, float]:
    """Return the medians of all loops, in microseconds of CPU for each write; they take turns."""
    frame = text_frame(b"x" * 200)
    count = len(wires)
    roster = Roster([Outbox(wire, 1 << 20) for wire in wires], 0)
    sockets = (ctypes.c_int * count)(*(wire.raw.fileno() for wire in wires))
    ring = Ring()
    loops: dict[str, Callable[[], int]] = {
        "C": lambda: library.sends(sockets, count, frame, len(frame)),
        "Python": lambda: roster.write(0, count, frame),
        "Python, io_uring": lambda: sum(roster.write(at, at + SLICE, frame, ring) for at in range(0, count, SLICE)),
    }
    times: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(rounds):
        for name, loop in loops.items():
            time.sleep(PAUSE)
            began = time.thread_time_ns()
            whole = loop()
            times[name].append((time.thread_time_ns() - began) / count / 1000)
            assert whole == count, "the clients do not keep up"
    return {name: statistics.median(taken) for name, taken in times.items()}


if __name__ == "__main__":
    main()
