"""The composition root: every part of a broker is made here, and nowhere else, from what it works with."""

import secrets
import ssl
import time
from collections.abc import Awaitable, Callable

import attrs
import trio

from broker import __version__
from broker.admin import AdminListener, AdminServices, Crowd, LoopLag
from broker.config import Config
from broker.control.plane import ControlPlane, build_control
from broker.control.rest import ControlRest
from broker.control.session import run_control_session
from broker.daemon.links import Links
from broker.daemon.readiness import ReadinessProbe
from broker.daemon.store_watch import StoreWatch
from broker.door.door import Door
from broker.door.services import DoorServices
from broker.door.state import Kind
from broker.events.fanout import FanOut
from broker.events.hub import Hub
from broker.events.services import EventServices
from broker.events.session import run_event_session
from broker.http.certificate import server_context
from broker.keys import KeyCache, Tickets
from broker.observe import Counters, get_logger
from broker.store.drive import run
from broker.store.history import history_since
from broker.store.key_record import KeyRecord
from broker.store.layout import Layout
from broker.store.master_key import open_sealer
from broker.store.sealer import Sealer
from broker.wire import Peer, Ring

Worker = Callable[..., Awaitable[None]]

INPUT_SECONDS = 3.0
"""How long control input that was heard may take to be applied at the end: it exists nowhere else any more."""

SETTLE_SECONDS = 1.0
"""How long the last receipts, and a broker's farewell, may take to be written."""


@attrs.define(eq=False)
class Broker:
    """A broker that is built but does not run yet.

    Attributes:
        id: names this process at Redis, in receipts and presence; new at every start.
        config: what is in force; see `reconfigure`.
        sealer: keeps the secrets of API keys.
        workers: what must run before the door opens, each for `nursery.start`.
        admin: what listens to operators.
        lag: how long the loop is held: operators are shown it, and the door lets crowds in by it.
    """

    id: str
    config: Config
    counters: Counters
    links: Links
    layout: Layout
    sealer: Sealer
    control: ControlPlane
    events: EventServices
    fan_out: FanOut
    store_watch: StoreWatch
    readiness: ReadinessProbe
    door: Door
    admin: AdminListener
    lag: LoopLag

    @property
    def workers(self) -> tuple[Worker, ...]:
        """What runs behind the door, in the order in which it is started."""
        return (
            self.lag.run,
            self.store_watch.run,
            self.admin.run,
            self.control.run,
            self.events.alarms.run,
            self.fan_out.run,
        )

    def reconfigure(self, config: Config, tls: ssl.SSLContext | None) -> None:
        """Work with another configuration from now on; no connection is closed by that.

        Args:
            config: differs from the former one in nothing that the running parts were built from.
            tls: what to speak with those who come.
        """
        self.config = config
        self.events.config = config
        self.control.services.config = config
        self.fan_out.max_publication_bytes = config.limits.max_publication_bytes
        self.fan_out.rate.per_second = config.limits.publications_per_second
        self.door.state.services.config = config
        self.door.reconfigure()
        self.door.use_tls(tls)
        self.admin.reconfigure(config)
        self.store_watch.history = config.events.history
        self.store_watch.bell.ring()

    async def settle(self) -> None:
        """Apply the control input that was heard and hear no more, for as long as `INPUT_SECONDS`; write down receipts.

        The receipts are what sessions that are over have left to be written, for as long as `SETTLE_SECONDS`.
        """
        with trio.move_on_after(INPUT_SECONDS):
            await self.control.finish()
        if lost := self.control.desk.waiting:
            get_logger(part="control").error("control input was heard, but not applied before the end", lost=lost)
        with trio.move_on_after(SETTLE_SECONDS):
            await self.control.services.receipts.settled()

    async def sign_off(self) -> None:
        """Write down that this broker is gone, for as long as `SETTLE_SECONDS`; an orderly end does it anyway."""
        with trio.move_on_after(SETTLE_SECONDS):
            await self.control.services.presence.sign_off()


def build(config: Config, links: Links, counters: Counters, *, durable: bool = True) -> Broker:
    """Make a broker on its links, which must already run when the broker does.

    Args:
        config: what to begin with.
        links: to Redis.
        counters: of this process.
        durable: Redis should have an append-only file.

    Raises:
        SealError: there is no master key where the configuration says.
        ConfigError: TLS cannot be spoken with the certificate and key that it names.
    """
    broker_id = secrets.token_hex(6)
    layout = Layout(config.redis.prefix)
    call = links.commands.call
    lag = LoopLag()
    sealer = open_sealer(config.redis.master_key_file)
    keys = KeyCache(layout, call, counters, time.time, sealer)

    control = build_control(
        config=config,
        layout=layout,
        link=links.control,
        call=call,
        keys=keys,
        counters=counters,
        log=get_logger(part="control"),
        broker_id=broker_id,
    )
    links.hearers.control = control.feed.on_push
    links.hearers.control_restored = control.feed.on_restored
    links.hearers.commands_up += (control.services.presence.link_up, keys.suspect_all)

    hub = Hub(links.events, layout)
    limits = config.limits
    fan_out = FanOut(
        hub,
        counters,
        limits.max_publication_bytes,
        limits.publications_per_second,
        open_ring(config.server.io_uring_from),
        config.server.io_uring_from,
    )
    links.hearers.events = fan_out.on_batch
    links.hearers.events_restored = fan_out.note_break
    events = EventServices(
        config=config,
        hub=hub,
        keys=keys,
        counters=counters,
        history=lambda channel, since, most_bytes: run(call, history_since(layout, channel, since, most_bytes)),
        log=get_logger(part="events"),
    )

    store_watch = StoreWatch(links.commands, layout, config.events.history, durable)
    links.hearers.commands_up.append(store_watch.bell.ring)
    readiness = ReadinessProbe(
        links, store_watch, lambda: control.feed.is_deaf, lambda: control.services.rooms.blind_since
    )

    def serve_events(peer: Peer, key: KeyRecord) -> Awaitable[None]:
        return run_event_session(peer, key, events)

    def serve_control(peer: Peer, key: KeyRecord, api_key: str, org: str, secret: str | None) -> Awaitable[None]:
        return run_control_session(peer, key, api_key, org, control.services, secret=secret)

    door = Door(
        DoorServices(
            config=config,
            keys=keys,
            tickets=Tickets(layout, call, keys),
            counters=counters,
            ready=readiness.check,
            event_session=serve_events,
            control_session=serve_control,
            rest=ControlRest(control.services),
            passes=lag,
            clock=time.time,
            log=get_logger(part="door"),
        ),
        load_tls(config),
    )
    admin = AdminListener(
        AdminServices(
            config=config,
            broker_id=broker_id,
            version=__version__,
            started_at=time.time(),
            layout=layout,
            call=call,
            counters=counters,
            ready=readiness.check,
            crowd=lambda: Crowd(
                {kind.value: door.peers(kind) for kind in Kind}, door.state.gate.inside, door.state.slots.waiting
            ),
            links=links.all,
            sealer=sealer,
            rooms=control.services.rooms,
            hub=hub,
            lag=lag,
            clock=time.time,
            log=get_logger(part="admin"),
        )
    )
    return Broker(
        id=broker_id,
        config=config,
        counters=counters,
        links=links,
        layout=layout,
        sealer=sealer,
        control=control,
        events=events,
        fan_out=fan_out,
        store_watch=store_watch,
        readiness=readiness,
        door=door,
        admin=admin,
        lag=lag,
    )


def open_ring(sockets: int) -> Ring | None:
    """Return what writes to many sockets with one system call; None where it is for no channel, or cannot be had."""
    log = get_logger(part="events")
    if not sockets:
        return None
    try:
        ring = Ring()
    except OSError as error:
        log.info("no io_uring: each event costs a system call for each browser", why=error.strerror)
        return None
    log.info("io_uring", for_channels_from=sockets)
    return ring


def load_tls(config: Config) -> ssl.SSLContext | None:
    """Return the TLS context for the configured certificate, None without one; raises ConfigError."""
    server = config.server
    if server.tls_certificate is None:
        return None
    return server_context(server.tls_certificate, server.tls_key or server.tls_certificate)
