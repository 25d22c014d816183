"""The load generator, against a real broker."""

import json
import socket
import subprocess
import time
from urllib.parse import urlsplit

import pytest

from broker.cli.bench_client import Address
from broker.cli.bench_load import Load, Run
from broker.cli.bench_publisher import Plan
from tests.conftest import Valkey
from tests.e2e.broker import COMMAND, Broker, Key
from tests.e2e.program import PATIENCE, environment

CHANNEL = "workflow:earlier-run"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--clients", "5", "--messages", "20", "--rate", "500"), 100),
        (("--clients", "6", "--messages", "30", "--flood", "10", "--channels", "3", "--per-client", "2"), 120),
        (("--clients", "3", "--messages", "5", "--rate", "500", "--channels", "2", "--size", "70000"), 8),
    ],
)
def test_every_delivery_is_counted(broker: Broker, options: tuple[str, ...], expected: int) -> None:
    """Paced, flooded, over several channels, with large events: the figures add up, and the run's key is revoked."""
    pid = str(broker.program.pid)
    (figures,) = broker.installation.json("bench", "--url", broker.url, "--pid", pid, *options)
    assert (figures["delivered"], figures["lost"], figures["closed"]) == (expected, 0, 0)
    latency = figures["latency_ms"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["max"]
    assert figures["broker_us_per_delivery"] > 0
    keys = broker.installation.json("keys", "list", "--org", "bench")
    assert {key["status"] for key in keys} == {"revoked"}


def test_what_an_earlier_run_published_is_not_counted(broker: Broker, store: Valkey, key: Key) -> None:
    """What a slow broker still has from a run before is neither a delivery of this one nor a latency."""
    published: list[int] = []

    def tell(what: str, done: int, of: int) -> None:
        if what == "connecting" and done == of and not published:
            event = {"type": "bench", "channel": CHANNEL, "data": {"ts": f"{1:019d}"}}
            published.append(store.client.publish(CHANNEL, json.dumps(event, separators=(",", ":"))))

    url = urlsplit(broker.url)
    assert url.hostname is not None
    assert url.port is not None
    address = Address(socket.AF_INET, (url.hostname, url.port), url.hostname, f"/ws/?token={key.api_key}", None)
    plan = Plan(store.url, ((CHANNEL, CHANNEL),), 10, 200, 500.0, 0)
    began = time.monotonic_ns()
    outcome = Run(Load(plan, 2, 1, PATIENCE, None), address, tell).run()
    assert published == [1]
    assert (outcome.delivered, len(outcome.latencies)) == (20, 20)
    assert outcome.latencies[-1] <= (time.monotonic_ns() - began) // 1000


def test_the_figures_for_people(broker: Broker) -> None:
    """Without --json there are sentences and a histogram whose counts add up."""
    shown = broker.installation.run("bench", "--url", broker.url, "--clients", "4", "--messages", "10", "--rate", "200")
    assert "40 of 40" in shown
    bars = [line for line in shown.splitlines() if "<=" in line]
    assert sum(int(line.split()[-1].replace(",", "")) for line in bars) == 40


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--url", "http://127.0.0.1:1"), "cannot connect"),
        (("--token", "nr_live_wrong", "--clients", "1"), "closed with 1008 Invalid or missing token"),
        (("--url", "gopher://x"), "must be http"),
        (("--pid", "99999999"), "no process 99999999"),
    ],
)
def test_what_cannot_be_measured_is_said(broker: Broker, options: tuple[str, ...], why: str) -> None:
    """A broker that is not there, a key that is wrong, a URL or a process that is none: one sentence, no traceback."""
    command = [*COMMAND, "bench", "--config", str(broker.installation.config), "--url", broker.url, *options]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode in (1, 2)
    assert why in done.stderr
    assert "Traceback" not in done.stderr
