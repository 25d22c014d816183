"""The load of `signalbox bench`: many clients on one epoll loop, a publisher beside them, and what was measured."""

import os
import selectors
import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from broker.cli.bench_client import Address, Client, Refused
from broker.cli.bench_publisher import Plan
from broker.cli.errors import Failure

CONNECTING = 100
"""Clients that may be in their handshake at one time."""

_SETTLE = 0.2

Progress = Callable[[str, int, int], None]
"""Told now and then of (what is being done, how much of it, out of how much)."""


@attrs.frozen
class Load:
    """Who listens, and to what.

    Attributes:
        clients: how many.
        per_client: channels that each one subscribes to, from `plan.channels` in turn.
        timeout: seconds without any progress after which the run is given up.
        pid: of the broker, if it runs on this machine: its CPU and memory are measured too.
    """

    plan: Plan
    clients: int
    per_client: int
    timeout: float
    pid: int | None

    @property
    def expected(self) -> int:
        """Deliveries in all: every client gets what is published on its channels."""
        names = len(self.plan.channels)
        rounds, extra = divmod(self.plan.messages, names)
        published = [rounds + (number < extra) for number in range(names)]
        if self.per_client >= names:
            return self.clients * self.plan.messages
        return sum(
            published[(client * self.per_client + each) % names]
            for client in range(self.clients)
            for each in range(self.per_client)
        )

    def channels_of(self, client: int) -> tuple[str, ...]:
        """Return the channels of one client."""
        names = self.plan.channels
        first = client * self.per_client
        return tuple(names[(first + each) % len(names)][0] for each in range(min(self.per_client, len(names))))


@attrs.define(eq=False)
class Outcome:
    """What was measured: seconds, deliveries, latencies in microseconds, the broker's CPU seconds and memory in KiB."""

    clients: int
    messages: int
    expected: int
    setup_seconds: float = 0.0
    setup_cpu: float | None = None
    seconds: float = 0.0
    delivered: int = 0
    closed: int = 0
    latencies: "array[int]" = attrs.field(factory=lambda: array("I"))
    cpu: float | None = None
    memory_before: int | None = None
    memory: int | None = None

    def percentile(self, share: float) -> float:
        """Return a latency in milliseconds; `latencies` must be sorted."""
        return self.latencies[int((len(self.latencies) - 1) * share)] / 1000 if self.latencies else 0.0


class Run:
    """One run of a load."""

    def __init__(self, load: Load, address: Address, progress: Progress) -> None:
        self._load = load
        self._address = address
        self._progress = progress
        self._selector = selectors.DefaultSelector()
        self._clients: list[Client] = []
        self._stamps: list[int] = []
        self._began = 0
        self.outcome = Outcome(load.clients, load.plan.messages, load.expected)

    def run(self) -> Outcome:
        """Connect, publish, count; raises Failure when there is nothing to measure."""
        try:
            self._set_up()
            time.sleep(_SETTLE)
            self._measure()
        finally:
            for client in self._clients:
                client.sock.close()
            self._selector.close()
        self.outcome.latencies = array("I", sorted(self.outcome.latencies))
        return self.outcome

    def _set_up(self) -> None:
        load, outcome = self._load, self.outcome
        cpu, outcome.memory_before = cpu_of(load.pid), _memory_of(load.pid)
        began = heard = time.monotonic()
        ready = 0
        while ready < load.clients:
            while len(self._clients) < min(load.clients, ready + CONNECTING):
                self._connect()
            for key, _ in self._selector.select(0.1):
                client: Client = key.data
                was_ready = client.ready
                try:
                    client.read(self._stamps)
                except (Refused, OSError) as error:
                    raise Failure(f"{error}, with {ready} clients connected.") from None
                if client.ready and not was_ready:
                    ready += 1
                    heard = time.monotonic()
            if time.monotonic() - heard > load.timeout:
                raise Failure(f"only {ready} of {load.clients} clients got their subscriptions.")
            self._progress("connecting", ready, load.clients)
        outcome.setup_seconds = time.monotonic() - began
        outcome.memory = _memory_of(load.pid)
        outcome.setup_cpu = _difference(cpu_of(load.pid), cpu)
        self._stamps.clear()

    def _connect(self) -> None:
        try:
            client = Client(self._address, self._load.channels_of(len(self._clients)), self._load.timeout)
        except OSError as error:
            raise Failure(f"cannot connect to {self._address.where}: {error.strerror or error}.") from None
        self._clients.append(client)
        self._selector.register(client.sock, selectors.EVENT_READ, client)

    def _measure(self) -> None:
        load, outcome = self._load, self.outcome
        with subprocess.Popen(
            [sys.executable, "-m", "broker.cli.bench_publisher"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as publisher:
            assert publisher.stdin is not None
            assert publisher.stdout is not None
            try:
                publisher.stdin.write(load.plan.encode())
                publisher.stdin.flush()
                if publisher.stdout.readline() != b"ready\n":
                    raise Failure(_last_words(publisher))
                cpu = cpu_of(load.pid)
                began = last = time.monotonic()
                self._began = time.monotonic_ns()
                os.write(publisher.stdin.fileno(), b"0\n")
                while outcome.delivered < outcome.expected:
                    if self._deliver():
                        last = time.monotonic()
                        if not load.plan.rate:
                            _tell(publisher, outcome.delivered * load.plan.messages // outcome.expected)
                    elif time.monotonic() - last > (load.timeout if publisher.poll() is None else 2.0):
                        break
                    self._progress("delivering", outcome.delivered, outcome.expected)
                outcome.seconds = last - began
                outcome.cpu = _difference(cpu_of(load.pid), cpu)
                if publisher.poll():
                    raise Failure(_last_words(publisher))
            finally:
                publisher.kill()

    def _deliver(self) -> bool:
        """Read what has arrived; returns whether there was anything."""
        stamps, outcome = self._stamps, self.outcome
        before = outcome.delivered
        for key, _ in self._selector.select(0.1):
            client: Client = key.data
            try:
                client.read(stamps)
            except (Refused, OSError):
                outcome.closed += 1
                self._selector.unregister(client.sock)
            if stamps and stamps[0] < self._began:  # of a run before this one, whose rest is only now delivered
                stamps[:] = [stamp for stamp in stamps if stamp >= self._began]
            now = time.monotonic_ns()
            outcome.latencies.extend([(now - stamp) // 1000 for stamp in stamps])
            outcome.delivered += len(stamps)
            if stamps:
                stamps.clear()
        return outcome.delivered > before


def _tell(publisher: "subprocess.Popen[bytes]", received: int) -> None:
    assert publisher.stdin is not None
    try:
        os.write(publisher.stdin.fileno(), b"%d\n" % received)
    except BrokenPipeError:
        return


def _last_words(publisher: Any) -> str:
    publisher.wait()
    said: bytes = publisher.stderr.read()
    return (said.decode().strip().splitlines() or ["the publisher failed"])[-1]


def cpu_of(pid: int | None) -> float | None:
    """Return the CPU seconds of all threads of a process, None where that cannot be read."""
    if pid is None:
        return None
    try:
        tasks = Path(f"/proc/{pid}/task")
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9
    except OSError:
        return None


def _memory_of(pid: int | None) -> int | None:
    """Return the resident memory of a process in KiB, None where that cannot be read."""
    if pid is None:
        return None
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    except OSError:
        return None
    return None


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before
