"""The broker of `make run`: a store of its own, a ready key, and what to try first."""

import sys

from broker.daemon.build import Broker
from broker.link.directory import dev_directory
from broker.link.embedded import EmbeddedServer
from broker.store.drive import run
from broker.store.keys import add_key

ORGANIZATION = "dev"
WORKFLOW = "demo"


def dev_store() -> EmbeddedServer:
    """Return the dev broker's store, in the directory where the command line looks for it with --dev.

    Raises:
        StartupError: the directory is somebody else's, or there is nothing to run.
    """
    return EmbeddedServer(directory=dev_directory())


async def announce_dev(broker: Broker, where: str) -> None:
    """Make a key and print, on stderr, where to connect and what to try.

    Args:
        broker: is listening.
        where: "host:port".
    """
    operation = add_key(
        broker.layout, ORGANIZATION, workflow_id=WORKFLOW, channels=("*",), name="dev", sealer=broker.sealer
    )
    key = await run(broker.links.commands.call, operation)
    print(GREETING.format(where=where, key=key.api_key, secret=key.record.secret_key), file=sys.stderr, flush=True)


GREETING = """
  Signalbox is running.

    events    ws://{where}/ws/?token={key}
    control   ws://{where}/ws/control/dev
    api key   {key}
    secret    {secret}

  Try it, from this directory. Watch a channel in one terminal and publish in another:

    .venv/bin/signalbox tail --dev --url ws://{where} --token {key} workflow:demo
    .venv/bin/signalbox publish --dev workflow:demo node_status '{{"node_id": "agent_1", "status": "running"}}'

  Kill a workflow, and see what is known of it (agents that are connected say that they heard it):

    .venv/bin/signalbox kill --dev dev demo --reason "trying it out" --wait 5
    .venv/bin/signalbox status --dev dev

  Point an agent at it, with the nullrun SDK:

    NullRunRuntime(api_key="{key}",
                   secret_key="{secret}",
                   api_url="http://{where}")

  Ctrl-C ends it.
"""
