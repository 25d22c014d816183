"""What every event session shares."""

from collections.abc import Awaitable, Callable
from typing import Any

import attrs

from broker.config.model import Config
from broker.events.hub import Hub
from broker.keys.cache import KeyCache
from broker.observe.counters import Counters
from broker.wire.alarms import Alarms

HistoryReader = Callable[[str, str], Awaitable[tuple[bool, list[tuple[str, bytes]]]]]
"""Given (channel, offset), returns whether nothing is missing, and the (offset, payload) pairs after it."""


@attrs.define(eq=False)
class EventServices:
    """The parts that a session works with; `config` is replaced on reload, so it is read where it is needed.

    Attributes:
        history: reads a channel's kept events, see `broker.store`.
        log: structlog logger.
        alarms: when to ping; must run.
    """

    config: Config
    hub: Hub
    keys: KeyCache
    counters: Counters
    history: HistoryReader
    log: Any
    alarms: Alarms = attrs.field(factory=Alarms)
