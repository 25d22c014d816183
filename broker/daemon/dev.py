"""The broker of `make run`: a store of its own, a ready key, and what to try first."""

import sys

import trio
from redis.exceptions import RedisError

from broker.config.bind import UnixBind, parse_bind
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

_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  nobody listens here: it is what others connect to
"""Where a listener for every address is reached from this machine."""


def dev_store() -> EmbeddedServer:
    """Return the dev broker's store, in the directory where the command line looks for it with --dev.

    Raises:
        StartupError: the directory is somebody else's, or there is nothing to run.
    """
    return EmbeddedServer(directory=dev_directory())


def greeting(where: str, *, tls: bool, redis: str, key: str, secret: str | None) -> str:
    """Return what to print about a dev broker, with addresses that can be copied on this machine.

    Args:
        where: it listens, in the form of `server.bind`.
        tls: it speaks TLS there.
        redis: the URL of its store.
        key: an API key.
        secret: the key's.
    """
    bind = parse_bind(where)
    if isinstance(bind, UnixBind):
        events, control = (f"{path} on {where}" for path in (f"/ws/?token={key}", "/ws/control/dev"))
        through, agent = "", NO_AGENT
    else:
        host = _HERE.get(bind.host, bind.host)
        address = f"[{host}]:{bind.port}" if ":" in host else f"{host}:{bind.port}"
        ws, http = ("wss", "https") if tls else ("ws", "http")
        events, control = (f"{ws}://{address}{path}" for path in (f"/ws/?token={key}", "/ws/control/dev"))
        through = f"--url {ws}://{address} --token {key} "
        agent = AGENT.format(url=f"{http}://{address}", key=key, secret=secret)
    return GREETING.format(
        events=events, control=control, key=key, secret=secret, redis=redis, through=through, agent=agent
    )


async def run_dev(broker: Broker, where: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Make a key and print, on stderr, where to connect and what to try; then keep the key until cancelled.

    The dev store keeps nothing on disk: when it dies, it comes back without the key that everybody has copied.

    Args:
        broker: is listening.
        where: it listens, in the form of `server.bind`.
        task_status: started when all is printed.
    """
    store_is_up = Doorbell()
    broker.links.hearers.commands_up.append(store_is_up.ring)
    operation = add_key(
        broker.layout, ORGANIZATION, workflow_id=WORKFLOW, channels=("*",), name="dev", sealer=broker.sealer
    )
    key = await run(broker.links.commands.call, operation)
    said = greeting(
        where,
        tls=broker.config.server.tls_certificate is not None,
        redis=broker.links.commands.address.describe(),
        key=key.api_key,
        secret=key.record.secret_key,
    )
    print(said, file=sys.stderr, flush=True)
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

    events    {events}
    control   {control}
    api key   {key}
    secret    {secret}
    redis     {redis}

  Try it, from this directory. Watch a channel in one terminal and publish in another:

    .venv/bin/signalbox tail --dev {through}workflow:demo
    .venv/bin/signalbox publish --dev workflow:demo node_status '{{"node_id": "agent_1", "status": "running"}}'

  Kill a workflow, and see what is known of it (agents that are connected say that they heard it):

    .venv/bin/signalbox kill --dev dev demo --reason "trying it out" --wait 5
    .venv/bin/signalbox status --dev dev

{agent}
  Ctrl-C ends it.
"""

AGENT = """\
  Point an agent at it, with the nullrun SDK:

    NullRunRuntime(api_key="{key}",
                   secret_key="{secret}",
                   api_url="{url}")
"""

NO_AGENT = """\
  Agents and browsers need a proxy in front of that socket, or a host:port in server.bind.
"""
