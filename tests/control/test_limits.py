"""How large control input may be, and how much of it may wait."""

import json

import pytest

from broker.control import input as control_input
from broker.control.input import MAX_INPUT_BYTES
from tests.conftest import Valkey
from tests.control.broker import ORG, Broker, add_key, running_broker
from tests.control.clients import eventually


async def test_size_of_control_input(broker: Broker, valkey: Valkey) -> None:
    """Input of exactly the bound is applied, one byte more is refused and counted."""
    api_key, _ = add_key(valkey)
    async with await broker.connect(api_key) as client:
        await client.receive_type("initial_state")
        for workflow, size in (("large", MAX_INPUT_BYTES + 1), ("right", MAX_INPUT_BYTES)):
            change = json.dumps({"type": "state_change", "workflow_id": workflow, "state": "Flagged"})
            valkey.client.publish(f"control:{ORG}", change.ljust(size))
        assert (await client.receive_type("state_change"))["workflow_id"] == "right"
    assert broker.counters.control_inputs_refused == {"too_big": 1}


async def test_publications_that_wait(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """When as many as may wait do so nothing more is read, and nothing is lost by that."""
    monkeypatch.setattr(control_input, "MAX_WAITING", 3)
    add_key(valkey)
    async with running_broker(valkey) as broker:
        valkey.client.config_set("min-replicas-to-write", "1")
        try:
            for number in range(6):
                policy = {"type": "policy_invalidated", "policy_id": "p", "new_version": number}
                valkey.client.publish(f"control:{ORG}", json.dumps(policy))
            await eventually(lambda: broker.counters.control_inputs == 4)
            assert broker.plane.desk.waiting == 3
        finally:
            valkey.client.config_set("min-replicas-to-write", "0")
        await eventually(lambda: broker.counters.control_applied["applied"] == 6)
