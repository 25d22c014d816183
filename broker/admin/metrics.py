"""`/metrics`: everything that Prometheus is told, read from counters at the moment of the scrape.

docs/operating.md says of each metric what it means at night.
"""

import platform
from collections.abc import Iterable, Iterator, Mapping

import attrs
import trio
from prometheus_client import CollectorRegistry, GCCollector
from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from broker.admin.families import counter, counters, gauge, gauges, histogram
from broker.admin.outboxes import Backlog, look
from broker.admin.process import process_metrics
from broker.admin.services import AdminServices, Crowd
from protocol.codes import CloseCode, ErrorCode

__all__ = ["Metrics"]

INPUT_FAULTS = (
    ErrorCode.INVALID_JSON,
    ErrorCode.INVALID_MESSAGE,
    ErrorCode.INVALID_ID,
    ErrorCode.UNKNOWN_TYPE,
    ErrorCode.ORGANIZATION_MISMATCH,
    ErrorCode.TOO_BIG,
    "overtaken",
    "store_error",
    "unknown_control_message",
)
EVENT_FAULTS = (
    ErrorCode.INVALID_JSON,
    ErrorCode.INVALID_MESSAGE,
    ErrorCode.RESERVED_TYPE,
    ErrorCode.CHANNEL_MISMATCH,
    ErrorCode.TOO_BIG,
    ErrorCode.RATE_LIMITED,
)
ADMIN_FAULTS = (ErrorCode.TOKEN_MISSING, ErrorCode.TOKEN_WRONG)


@attrs.frozen
class _Moment:
    """What a scrape has looked up before it renders, as that takes more than one turn of the loop."""

    crowd: Crowd
    backlogs: Mapping[str, Backlog]
    process: tuple[Metric, ...]


class Metrics:
    """Renders the metrics of one broker.

    Args:
        services: what is read.
        refusals: of the admin listener itself, by reason.
    """

    def __init__(self, services: AdminServices, refusals: Mapping[str, int]) -> None:
        self._services = services
        self._refusals = refusals
        self._garbage = GCCollector(CollectorRegistry())

    async def render(self, accept: str) -> tuple[bytes, str]:
        """Return the page and its content type, in the format that an Accept header asks for."""
        crowd = self._services.crowd()
        backlogs = {kind: await look(peers) for kind, peers in crowd.sessions.items()}
        # counting open descriptors reads a directory as long as the list of clients
        process = await trio.to_thread.run_sync(lambda: tuple(process_metrics(self._services.started_at)))
        registry = CollectorRegistry()
        registry.register(_Page(self._collect(_Moment(crowd, backlogs, process))))
        try:
            encode, content_type = choose_encoder(accept)
        except (ValueError, TypeError):  # it names a version that is none
            encode, content_type = choose_encoder("")
        return encode(registry), content_type

    def _collect(self, moment: _Moment) -> Iterator[Metric]:
        yield from self._broker()
        yield from self._connections(moment)
        yield from self._outboxes(moment)
        yield from self._events()
        yield from self._control()
        yield from self._redis()
        yield from self._loop()
        yield from moment.process
        yield from self._garbage.collect()

    def _broker(self) -> Iterator[Metric]:
        services = self._services
        readiness = services.ready()
        build = {"version": services.version, "python": platform.python_version(), "broker_id": services.broker_id}
        yield InfoMetricFamily("signalbox_build", "The program, and the id that this process has in receipts.", build)
        yield gauge(
            "ready", "Whether new clients should be sent here: what /health/ready says.", not readiness.problems
        )
        yield gauges(
            "problem",
            "1 for each problem or warning that /health/ready names now.",
            "problem",
            dict.fromkeys((*readiness.problems, *readiness.warnings), 1),
        )

    def _connections(self, moment: _Moment) -> Iterator[Metric]:
        count, limits = self._services.counters, self._services.config.limits
        open_now = {kind: len(peers) for kind, peers in moment.crowd.sessions.items()}
        yield gauges(
            "connections",
            "Open connections by kind: control, events, or handshake for those that are no session (yet).",
            "kind",
            {**open_now, "handshake": moment.crowd.handshakes},
        )
        yield gauge("connections_limit", "limits.max_connections.", limits.max_connections)
        yield gauge("connections_held", "Control upgrades that wait for a place.", moment.crowd.held)
        yield counter("accepted", "Connections accepted on the public port.", count.accepted)
        yield counter("accept_errors", "Connections that could not be accepted.", count.accept_errors)
        yield counters("refused", "Requests refused before a WebSocket was open, by reason.", "reason", count.refused)
        yield counter("bad_credentials", "Wrong keys, tokens, tickets and signatures.", count.bad_credentials)
        yield counter("tickets", "Tickets made for browsers.", count.tickets)
        yield counters(
            "closed", "WebSockets that ended, by close code; 1006: without one.", "code", count.closed, CloseCode
        )
        yield counter("crashes", "Connections that ended with an error of the broker's own.", count.crashed)
        yield counter("messages", "Messages from clients.", count.messages)
        yield counter("message_bytes", "Bytes in messages from clients.", count.message_bytes)
        yield counters(
            "messages_refused", "Messages from clients that were refused, by reason.", "reason", count.messages_refused
        )
        yield counter("heartbeats_missed", "Clients that did not answer a ping in time.", count.heartbeats_missed)
        yield counters(
            "admin_refused", "Requests to this listener that were refused.", "reason", self._refusals, ADMIN_FAULTS
        )

    def _outboxes(self, moment: _Moment) -> Iterator[Metric]:
        backlogs = moment.backlogs
        yield gauges(
            "outbox_clients_waiting",
            "Clients that have not taken everything that was written for them.",
            "kind",
            {kind: backlog.waiting for kind, backlog in backlogs.items()},
        )
        yield gauges(
            "outbox_pending_bytes",
            "Bytes that wait for clients, over all of them.",
            "kind",
            {kind: backlog.pending for kind, backlog in backlogs.items()},
        )
        yield gauges(
            "outbox_largest_bytes",
            "Bytes that wait for the client with the most.",
            "kind",
            {kind: backlog.largest for kind, backlog in backlogs.items()},
        )
        peak = max([self._services.counters.outbox_peak_bytes, *(each.peak for each in backlogs.values())])
        yield gauge("outbox_peak_bytes", "The most that has waited for any one client since the start.", peak)
        yield gauge("outbox_limit_bytes", "limits.outbox_bytes.", self._services.config.limits.outbox_bytes)
        yield counter(
            "slow_consumers", "Event sockets closed because they did not read.", self._services.counters.slow_consumers
        )

    def _events(self) -> Iterator[Metric]:
        count = self._services.counters
        yield gauge("channels", "Channels that clients here are subscribed to.", len(self._services.hub.channels))
        yield gauge("subscriptions", "Subscriptions of all clients here.", count.subscriptions)
        yield counter("publications", "Events from Redis that were passed on.", count.publications)
        yield counters(
            "publications_dropped",
            "Events from Redis that no client may be sent.",
            "reason",
            count.publications_dropped,
            EVENT_FAULTS,
        )
        yield counter("deliveries", "Events written for clients.", count.deliveries)
        yield counter("delivery_bytes", "Bytes of events written for clients.", count.delivery_bytes)
        yield counter("publications_compressed", "Events that were compressed.", count.publications_compressed)
        yield counter("compressed_from_bytes", "Bytes of events before compression.", count.compressed_from_bytes)
        yield counter("compressed_to_bytes", "Bytes of events after compression.", count.compressed_to_bytes)
        yield counter("compression_seconds", "Time that compressing events has taken.", count.compression_seconds)
        yield histogram(
            "delivery_latency_seconds",
            "From the read off Redis to the last subscriber's write, for each event.",
            count.delivery_latency,
        )

    def _control(self) -> Iterator[Metric]:
        count, rooms = self._services.counters, self._services.rooms
        blind = rooms.blind_since
        yield gauge("rooms", "Organizations with agents here.", len(rooms))
        yield gauge("control_silent", "Agents that miss their pings and are kept.", count.control_silent)
        yield gauge(
            "control_blind_seconds",
            "For how long control messages may have been missed; 0 when all is known.",
            0 if blind is None else max(0.0, self._services.clock() - blind),
        )
        yield gauge(
            "control_log_capped_entries",
            "Entries lost to control.log_max_entries, over the logs of the organizations with agents here.",
            rooms.capped,
        )
        yield counter("gap_repairs", "Rooms that were compared with the log after a gap.", count.gap_repairs)
        yield counter("control_repairs", "Snapshots sent in-band to mend what agents missed.", count.control_repairs)
        yield counter("restored", "Workflows whose state the store had lost, and was given back.", count.restored)
        yield counter("control_inputs", "Control messages published by others.", count.control_inputs)
        yield counters(
            "control_inputs_refused",
            "Control messages published by others that were refused.",
            "reason",
            count.control_inputs_refused,
            INPUT_FAULTS,
        )
        yield counters("control_applied", "What the store did with them, by outcome.", "outcome", count.control_applied)
        yield counter("control_sent", "Control messages sent to agents.", count.control_sent)
        yield counter("control_resent", "Control messages sent again for want of an ack.", count.control_resent)
        yield counter("acks", "Acks that were waited for.", count.acks)
        yield counters("acks_refused", "Acks that were not.", "reason", count.acks_refused)
        yield counter("unconfirmed", "Messages that an agent never acknowledged.", count.unconfirmed)
        yield histogram("ack_latency_seconds", "From the store's decision to the agent's ack.", count.ack_latency)

    def _redis(self) -> Iterator[Metric]:
        count, links = self._services.counters, self._services.links
        up = {link.name: link.state.up for link in links}
        yield gauges("redis_link_up", "Whether a connection to Redis is up.", "link", up)
        yield counters(
            "redis_link_connects", "Connections made to Redis.", "link", {link.name: link.generation for link in links}
        )
        yield counters(
            "redis_messages", "Pub/sub messages from Redis.", "link", {each.name: each.pushes for each in links}
        )
        yield gauges(
            "redis_calls_waiting",
            "Commands without a reply yet.",
            "link",
            {each.name: each.outstanding for each in links},
        )
        yield counter("key_lookups", "API keys looked up in Redis.", count.key_lookups)
        yield counter("key_cache_hits", "API keys found in the cache.", count.key_cache_hits)

    def _loop(self) -> Iterator[Metric]:
        yield histogram("loop_lag_seconds", "How long a pass of the event loop took.", self._services.lag.histogram)
        yield gauge("loop_lag_worst_seconds", "The worst of that in the last minute.", self._services.lag.worst())


class _Page(Collector):
    """What was collected already, in the shape that a registry takes."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families
