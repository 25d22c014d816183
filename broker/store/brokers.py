"""Which brokers there are, by their heartbeats."""

from collections.abc import Mapping
from typing import Any, Final

import attrs
import orjson

from broker.store.layout import Layout
from broker.store.replies import integer, items, pairs, text
from broker.store.request import Operation, command, load_script
from protocol.ids import check_id

HEARTBEAT = load_script("heartbeat")

LIVE_MS: Final = 20_000
"""A broker that was silent for longer counts as dead; brokers beat every few seconds."""


@attrs.frozen
class LiveBroker:
    """A broker, when it last said that it lives (unix ms by the server's clock), and what it says of itself."""

    broker_id: str
    heartbeat_ms: int
    info: Mapping[str, Any]


def heartbeat(layout: Layout, broker_id: str, info: Mapping[str, Any]) -> Operation[int]:
    """Say that a broker lives; ``info`` is anything that has a JSON form. Returns the server's clock in unix ms."""
    check_id(broker_id, "broker_id")
    return integer((yield HEARTBEAT((layout.brokers(),), broker_id, orjson.dumps(dict(info)))))


def sign_off(layout: Layout, broker_id: str) -> Operation[None]:
    """Take a broker that ends out of the list at once."""
    yield command("HDEL", layout.brokers(), broker_id)


def live_brokers(layout: Layout, max_age_ms: int = LIVE_MS) -> Operation[tuple[LiveBroker, ...]]:
    """Read the brokers whose last heartbeat is at most ``max_age_ms`` old, in the order of their ids."""
    seconds, micros = map(integer, items((yield command("TIME"))))
    oldest = seconds * 1000 + micros // 1000 - max_age_ms
    found: list[LiveBroker] = []
    for name, value in pairs((yield command("HGETALL", layout.brokers()))):
        at, _, info = text(value).partition(" ")
        if int(at) >= oldest:
            found.append(LiveBroker(text(name), int(at), orjson.loads(info)))
    return tuple(sorted(found, key=lambda broker: broker.broker_id))
