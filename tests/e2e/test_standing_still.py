"""A broker that stands still for a while, and then presents what the others have long dealt with."""

import signal
import time
from collections.abc import Callable

from broker.publisher import Publisher
from broker.store.drive import run_sync
from broker.store.layout import Layout
from broker.store.replies import text
from broker.store.snapshot import read_snapshot
from protocol.states import State
from tests.conftest import Valkey
from tests.e2e.broker import Broker, Key
from tests.e2e.program import PATIENCE

LAYOUT = Layout()
RESUME = '{"type": "state_change", "workflow_id": "wf", "state": "resumed"}'


def until(condition: Callable[[], bool]) -> None:
    """Wait for what a broker does without saying so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline


def test_nothing_is_undone(
    broker: Broker, second: Broker, store: Valkey, publisher: Publisher, org: str, key: Key
) -> None:
    """A resume that one broker has applied, and an operator has overruled, is not applied again by another."""

    def state() -> State | None:
        found = run_sync(store.client, read_snapshot(LAYOUT, org)).workflows.get("wf")
        return None if found is None else found.workflow.state

    second.program.signal(signal.SIGSTOP)
    try:
        assert store.client.publish(LAYOUT.control(org), RESUME) == 2
        until(lambda: state() is State.NORMAL)
        publisher.pause(org, "wf")
    finally:
        second.program.signal(signal.SIGCONT)
    (claim,) = store.client.keys(LAYOUT.seen(org, "*"))
    until(lambda: sum(text(field).startswith("b:") for field in store.client.hkeys(claim)) == 2)
    assert state() is State.PAUSED
