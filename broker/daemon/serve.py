"""The life of a broker process, from its configuration to its last connection."""

from functools import partial

import trio

from broker.config import Config
from broker.daemon import collector
from broker.daemon.build import Broker, build
from broker.daemon.dev import announce_dev, dev_store
from broker.daemon.drain import drain
from broker.daemon.links import build_links
from broker.daemon.signals import Signals
from broker.http import describe_listener, listen
from broker.link.address import Address
from broker.link.embedded import EmbeddedServer
from broker.link.server_check import check_server
from broker.observe import Counters, get_logger
from broker.store.drive import run
from broker.store.history import settle_history
from broker.store.schema import check_schema


def serve(config: Config, *, dev: bool = False) -> None:
    """Run the broker until SIGTERM or SIGINT; logging is set up already.

    Raises:
        StartupError: Redis cannot be used; a sentence says why.
        StoreError: Redis holds the data of another layout.
        OSError: a listener cannot be opened.
    """
    trio.run(partial(_serve, config, dev), restrict_keyboard_interrupt_to_checkpoints=True)


async def _serve(config: Config, dev: bool) -> None:
    signals = Signals()
    async with trio.open_nursery() as helpers:
        await helpers.start(signals.listen)
        async with trio.open_nursery() as store:
            address = await _open_store(store, config, dev)
            await _serve_from(address, config, dev, signals)
            store.cancel_scope.cancel()
        helpers.cancel_scope.cancel()


async def _open_store(nursery: trio.Nursery, config: Config, dev: bool) -> Address:
    """Return where Redis is; an embedded one is started first and lives as long as the nursery."""
    if config.redis.url != "embedded":
        return Address.parse(config.redis.url)
    server = dev_store() if dev else EmbeddedServer(config.redis.data_dir)
    address: Address = await nursery.start(server.run)
    return address


async def _serve_from(address: Address, config: Config, dev: bool, signals: Signals) -> None:
    log = get_logger(part="broker")
    counters = Counters()
    links = build_links(address, counters)
    async with trio.open_nursery() as connections_to_redis:
        for link in links.all:
            await connections_to_redis.start(link.run)
        await check_server(links.commands, durable=not dev)
        broker = build(config, links, counters)
        await run(links.commands.call, check_schema(broker.layout))
        await run(links.commands.call, settle_history(broker.layout, config.events.history))
        async with trio.open_nursery() as workers:
            for worker in broker.workers:
                await workers.start(worker)
            await _open_the_door(broker, dev, signals)
            workers.cancel_scope.cancel()
        connections_to_redis.cancel_scope.cancel()
    log.info("stopped")


async def _cut_short(signals: Signals, scope: trio.CancelScope) -> None:
    await signals.hurry.wait()
    scope.cancel()


async def _open_the_door(broker: Broker, dev: bool, signals: Signals) -> None:
    listeners = [listen(broker.config.server.bind)]
    try:
        async with trio.open_nursery() as door:
            await door.start(broker.door.run, listeners)
            collector.tend()
            get_logger(part="broker").info("listening", on=[describe_listener(listener) for listener in listeners])
            if dev:
                await announce_dev(broker, describe_listener(listeners[0]))
            door.start_soon(_cut_short, signals, door.cancel_scope)
            await signals.stop.wait()
            door.cancel_scope.deadline = trio.current_time() + broker.config.server.drain_timeout
            await drain(broker)
            await broker.door.closed.wait()
            door.cancel_scope.cancel()
    finally:
        for listener in listeners:
            listener.close()
