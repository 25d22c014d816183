"""The life of a broker process, from its configuration to its last connection."""

import faulthandler
import os
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn

import attrs
import trio

from broker.config import Config
from broker.daemon import collector, hugepages
from broker.daemon.adoption import Adoption
from broker.daemon.build import Broker, build
from broker.daemon.dev import dev_store, run_dev
from broker.daemon.drain import FAREWELL_SECONDS, drain
from broker.daemon.handover import Handover
from broker.daemon.held import Held
from broker.daemon.inherit import Inherited, inherited
from broker.daemon.links import build_links
from broker.daemon.notify import Notifier, feed_watchdog
from broker.daemon.reload import Reloader
from broker.daemon.signals import Signals
from broker.daemon.startup import StoreCheck, refuse_exposed_echo
from broker.http.listener import describe_listener, listen
from broker.link.address import Address
from broker.link.embedded import EmbeddedServer
from broker.link.errors import StartupError
from broker.observe import Counters, get_logger

ADOPTION_SECONDS = 10.0
"""How long a stop waits for the sessions of a former process to be here, so that they can be handed over again."""


def serve(
    config: Config,
    *,
    dev: bool = False,
    reread: Callable[[], Config] | None = None,
    given: Inherited | None = None,
) -> None:
    """Run the broker until SIGTERM or SIGINT; logging is set up already.

    Args:
        config: what to begin with.
        dev: bring a store and a key along.
        reread: reads the configuration again, on SIGHUP; raises ConfigError.
        given: sockets to listen on, in place of those that the service manager gave.

    Raises:
        StartupError: Redis cannot be used, or nobody can listen on `server.bind`; a sentence says why.
        StoreError: Redis holds the data of another layout.
        ConfigError: TLS cannot be spoken with the certificate and key.
    """
    faulthandler.enable()  # the watchdog's SIGABRT then leaves in the log where the loop hung
    life = _Life(config, dev, reread, Notifier.of(), given or inherited(), Signals(reloads=not dev))
    trio.run(life.live, restrict_keyboard_interrupt_to_checkpoints=True)


@attrs.frozen(eq=False)
class _Life:
    """One run of the daemon; its methods are the nested stages of it, outermost first."""

    config: Config
    dev: bool
    reread: Callable[[], Config] | None
    notifier: Notifier
    given: Inherited
    signals: Signals
    counters: Counters = attrs.field(factory=Counters)
    store: Held = attrs.field(factory=Held)
    links: Held = attrs.field(factory=Held)

    async def live(self) -> None:
        """Hear signals, feed the watchdog, and have a store."""
        async with trio.open_nursery() as helpers:
            await helpers.start(self.signals.listen)
            helpers.start_soon(feed_watchdog, self.notifier)
            async with trio.open_nursery() as store:
                self.notifier.status("starting: opening the store")
                await self._work_with(await self._open_store(store))
                await self.store.end()
            helpers.cancel_scope.cancel()
        get_logger(part="broker").info("stopped")

    async def _open_store(self, nursery: trio.Nursery) -> Address:
        """Return where Redis is; an embedded one is started first and lives as long as the nursery."""
        if not self.dev and self.config.redis.url != "embedded":
            return Address.parse(self.config.redis.url)
        server = dev_store() if self.dev else EmbeddedServer(self.config.redis.data_dir)
        address: Address = await nursery.start(self.store.run, server.run)
        return address

    async def _work_with(self, address: Address) -> None:
        links = build_links(address)
        async with trio.open_nursery() as connections_to_redis:
            await connections_to_redis.start(self.links.run, links.run)
            broker = build(self.config, links, self.counters, durable=not self.dev)
            broker.admin.inherited = self.given.admin
            store = StoreCheck(broker)
            self.notifier.status(f"starting: {store.complaint or 'checking the store'}")
            await store.wait_briefly()
            async with trio.open_nursery() as workers:
                for worker in broker.workers:
                    await workers.start(worker)
                await self._open_the_door(broker, store)
                await broker.settle()
                workers.cancel_scope.cancel()
            await self.links.end()

    async def _open_the_door(self, broker: Broker, store: StoreCheck) -> None:
        listeners = self.given.public or (_listen(self.config.server.bind),)
        try:
            if not self.dev:
                refuse_exposed_echo(self.config, map(describe_listener, listeners))
            async with trio.open_nursery() as door:
                await door.start(broker.door.run, listeners)
                adoption = Adoption(broker, self.notifier, self.given.handover)
                door.start_soon(adoption.adopt)
                collector.tend()
                hugepages.collapse()
                door.start_soon(collector.keep_young)
                await self._announce(broker, store, listeners, door)
                door.start_soon(store.go_on, partial(self._say_ready, store))
                reloader = Reloader(broker, self.notifier, self.reread, partial(_status, store))
                door.start_soon(reloader.run, self.signals.reload)
                door.start_soon(self._cut_short, door.cancel_scope)
                await self.signals.stop.wait()
                self.notifier.stopping("draining: clients are told to reconnect")
                with trio.move_on_after(ADOPTION_SECONDS):
                    await adoption.finished.wait()
                handed_over = await drain(broker, Handover(broker, self.notifier))
                door.cancel_scope.deadline = trio.current_time() + FAREWELL_SECONDS
                if handed_over:
                    await self._leave_at_once(broker)
                await broker.door.closed.wait()
                door.cancel_scope.cancel()
        finally:
            for listener in listeners:
                listener.close()

    async def _leave_at_once(self, broker: Broker) -> NoReturn:
        """End the process without unwinding the tasks of sessions that are not ours any more.

        There may be thousands of them, and unwinding takes half a millisecond each, during which neither those sessions
        nor newcomers are served by anybody. All that outlives this process is ended in order first.
        """
        with trio.move_on_after(FAREWELL_SECONDS):
            await broker.door.emptied()
        with trio.CancelScope(shield=True):
            await broker.settle()
            await broker.sign_off()
            await self.links.end()
            await self.store.end()
        get_logger(part="broker").info("stopped")
        sys.stderr.flush()
        os._exit(0)

    async def _announce(
        self, broker: Broker, store: StoreCheck, listeners: Sequence[socket.socket], door: trio.Nursery
    ) -> None:
        where = [describe_listener(listener) for listener in listeners]
        get_logger(part="broker").info("listening", on=where, inherited=bool(self.given.public))
        self._say_ready(store)
        if self.dev:
            await door.start(run_dev, broker, where[0])

    def _say_ready(self, store: StoreCheck) -> None:
        self.notifier.ready(_status(store))

    async def _cut_short(self, scope: trio.CancelScope) -> None:
        await self.signals.hurry.wait()
        scope.cancel()


def _listen(bind: str) -> socket.socket:
    try:
        return listen(bind)
    except OSError as error:
        raise StartupError(f"server.bind: cannot listen on {bind}: {error.strerror or error}") from None


def _status(store: StoreCheck) -> str:
    return f"waiting for the store: {store.complaint}" if store.complaint else "serving"
