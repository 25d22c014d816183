"""Numbers that hot paths raise and the metrics page reads.

Plain integers in slots: `counters.deliveries += n` costs a few nanoseconds, and only one thread ever touches them.
"""

from collections import defaultdict

import attrs

from broker.observe.histogram import Histogram


def _tally() -> defaultdict[str, int]:
    return defaultdict(int)


@attrs.define(eq=False)
class Counters:
    """Everything that is counted. All but the gauges at the end only ever rise; dicts count by reason."""

    # connections
    accepted: int = 0
    accept_errors: int = 0
    refused: defaultdict[str, int] = attrs.field(factory=_tally)  # by reason, before 101
    bad_credentials: int = 0  # wrong keys, tokens, tickets and signatures
    tickets: int = 0  # made
    closed: defaultdict[int, int] = attrs.field(factory=lambda: defaultdict(int))  # by close code
    crashed: int = 0  # connections that ended with a bug of ours

    # events: Redis to clients
    publications: int = 0
    publications_dropped: defaultdict[str, int] = attrs.field(factory=_tally)  # by reason
    deliveries: int = 0
    delivery_bytes: int = 0
    delivery_latency: Histogram = attrs.field(factory=Histogram)  # from the read off Redis to the last write
    publications_compressed: int = 0  # once for each window that their subscribers have agreed on
    compressed_from_bytes: int = 0  # what those were, and became
    compressed_to_bytes: int = 0
    compression_seconds: float = 0.0
    slow_consumers: int = 0  # closed because they did not read
    outbox_peak_bytes: int = 0  # the most that ever waited for one client, of those that are gone

    # clients to us
    messages: int = 0
    message_bytes: int = 0
    messages_refused: defaultdict[str, int] = attrs.field(factory=_tally)  # by error code
    heartbeats_missed: int = 0

    # control plane
    control_inputs: int = 0
    control_inputs_refused: defaultdict[str, int] = attrs.field(factory=_tally)  # by reason
    control_applied: defaultdict[str, int] = attrs.field(factory=_tally)  # by status of the apply script
    control_sent: int = 0
    control_resent: int = 0
    control_repairs: int = 0
    restored: int = 0  # workflows whose state the store had lost, and was given back
    acks: int = 0
    ack_latency: Histogram = attrs.field(factory=Histogram)  # from the store's decision to the ack
    acks_refused: defaultdict[str, int] = attrs.field(factory=_tally)  # by reason
    unconfirmed: int = 0

    # keys and the store
    key_lookups: int = 0
    key_cache_hits: int = 0
    gap_repairs: int = 0

    # gauges: what there is now
    control_sessions: int = 0
    control_silent: int = 0  # of those, not heard for a while and kept
    subscriptions: int = 0

    def hear(self, message: str | bytes) -> None:
        """Count a message of a client, and its bytes: those of its UTF-8."""
        self.messages += 1
        if isinstance(message, str) and not message.isascii():
            message = message.encode()
        self.message_bytes += len(message)
