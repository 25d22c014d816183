"""A store that comes back empty while an agent is connected, as operators see it."""

import trio

from broker.config import Config, Control
from broker.link.errors import LinkDown
from broker.store.drive import run, run_sync
from broker.store.keys import add_key
from broker.store.layout import Layout
from broker.store.presence import read_presence
from tests.conftest import Valkey
from tests.support.whole import Whole, whole_broker

LAYOUT = Layout()

SOON = 2.5
"""Seconds; half of what passes between two heartbeats."""


async def until_known(whole: Whole) -> None:
    """Ask the store, as soon as it answers, until it tells of an agent."""
    commands = whole.broker.links.commands
    with trio.fail_after(SOON):
        while True:
            await commands.wait_up()
            try:
                if await run(commands.call, read_presence(LAYOUT, "acme")):
                    return
            except LinkDown:
                continue


async def test_agents_are_known_as_soon_as_the_store_is_back(valkey: Valkey) -> None:
    """An agent that is connected can be killed at once although the store has forgotten its key and its presence."""
    made = run_sync(valkey.client, add_key(LAYOUT, "acme"))
    config = Config(control=Control(handshake_signature="optional"))
    async with whole_broker(valkey.url, config) as whole, await whole.agent(made.api_key, "acme") as agent:
        await agent.receive_type("initial_state")
        await until_known(whole)
        crash = valkey.client.pipeline(transaction=True)
        crash.flushall()
        crash.client_kill_filter(skipme=True)
        crash.execute()
        await until_known(whole)
