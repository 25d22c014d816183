"""How large control input may be."""

import json

from broker.control.input import MAX_INPUT_BYTES
from tests.conftest import Valkey
from tests.control.broker import ORG, Broker, add_key


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
