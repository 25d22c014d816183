"""The broker of `make run`: a store of its own, a ready key, and what to try first."""

import sys

import trio
from redis.exceptions import RedisError

from broker.daemon.build import Broker
from broker.link.directory import dev_directory
from broker.link.embedded import EmbeddedServer
from broker.observe import get_logger
from broker.store.drive import run
from broker.store.key_record import KeyRecord
from broker.store.keys import add_key, lookup_key, put_key
from broker.wire.doorbell import Doorbell

ORGANIZATION = "dev"
WORKFLOW = "demo"


def dev_store() -> EmbeddedServer:
    """Return the dev broker's store, in the directory where the command line looks for it with --dev.

    Raises:
        StartupError: the directory is somebody else's, or there is nothing to run.
    """
    return EmbeddedServer(directory=dev_directory())


async def run_dev(broker: Broker, where: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Make a key and print, on stderr, where to connect and what to try; then keep the key until cancelled.

    The dev store keeps nothing on disk: when it dies, it comes back without the key that everybody has copied.

    Args:
        broker: is listening.
        where: "host:port".
        task_status: started when all is printed.
    """
    store_is_up = Doorbell()
    broker.links.hearers.commands_up.append(store_is_up.ring)
    operation = add_key(
        broker.layout, ORGANIZATION, workflow_id=WORKFLOW, channels=("*",), name="dev", sealer=broker.sealer
    )
    key = await run(broker.links.commands.call, operation)
    redis = broker.links.commands.address.describe()
    greeting = GREETING.format(where=where, redis=redis, key=key.api_key, secret=key.record.secret_key)
    print(greeting, file=sys.stderr, flush=True)
    task_status.started()
    while True:
        await store_is_up.wait()
        await _put_back(broker, key.record)


async def _put_back(broker: Broker, record: KeyRecord) -> None:
    call, log = broker.links.commands.call, get_logger(part="dev")
    try:
        if await run(call, lookup_key(broker.layout, record.hash, broker.sealer)) is None:
            await run(call, put_key(broker.layout, record, broker.sealer))
            log.warning("the store came back without its data: the dev key was put back", key_id=record.key_id)
    except RedisError as error:
        log.error("the dev key may be lost: if it is refused, start the dev broker again", error=str(error))


GREETING = """
  Signalbox is running.

    events    ws://{where}/ws/?token={key}
    control   ws://{where}/ws/control/dev
    api key   {key}
    secret    {secret}
    redis     {redis}

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
