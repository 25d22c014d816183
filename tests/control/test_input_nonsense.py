"""One workflow that makes no sense in the store, and the kills of the others."""

import json

import trio

from tests.conftest import Valkey
from tests.control.broker import ORG, add_key, running_broker
from tests.control.clients import eventually

WORKFLOWS = "signalbox:{acme}:workflows"


def kill(valkey: Valkey, workflow_id: str) -> None:
    """Publish a kill as any program does."""
    message = {"type": "state_change", "workflow_id": workflow_id, "state": "Killed"}
    assert valkey.client.publish(f"control:{ORG}", json.dumps(message)) == 1


async def until_killed(valkey: Valkey, workflow_id: str) -> None:
    """Return when it is killed in the store."""
    await eventually(lambda: b" Killed " in (valkey.client.hget(WORKFLOWS, workflow_id) or b""))


async def test_a_state_of_another_version(own_valkey: Valkey) -> None:
    """A state that this version does not know is left for Killed like any other."""
    add_key(own_valkey)
    own_valkey.client.hset(WORKFLOWS, "wf", "5 Suspended {}")
    async with running_broker(own_valkey):
        kill(own_valkey, "wf")
        await until_killed(own_valkey, "wf")
        kill(own_valkey, "other")
        await until_killed(own_valkey, "other")


async def test_a_kill_that_the_store_refuses_holds_up_no_other(own_valkey: Valkey) -> None:
    """The script cannot read one workflow; the others are killed all the same, and that one when it can be."""
    add_key(own_valkey)
    own_valkey.client.hset(WORKFLOWS, "wf", "nonsense")
    async with running_broker(own_valkey):
        kill(own_valkey, "wf")
        await trio.sleep(0.2)
        for workflow_id in ("other", "another"):
            kill(own_valkey, workflow_id)
            await until_killed(own_valkey, workflow_id)
        own_valkey.client.hdel(WORKFLOWS, "wf")
        await until_killed(own_valkey, "wf")


async def test_an_answer_without_sense(own_valkey: Valkey) -> None:
    """What is kept of a claim is nonsense: that publication is refused, and no other."""
    add_key(own_valkey)
    own_valkey.client.set("signalbox:{acme}:claim:m/policy_invalidated/p", "nonsense")
    async with running_broker(own_valkey):
        message = {"type": "policy_invalidated", "policy_id": "p", "new_version": 1, "message_id": "m"}
        own_valkey.client.publish(f"control:{ORG}", json.dumps(message))
        await trio.sleep(0.2)
        kill(own_valkey, "wf")
        await until_killed(own_valkey, "wf")
