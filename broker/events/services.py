"""What every event session shares."""

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio

from broker.config.model import Config
from broker.events.hub import Hub
from broker.keys.cache import KeyCache
from broker.observe.counters import Counters
from broker.wire.alarms import Alarms

HistoryReader = Callable[[str, str, int], Awaitable[tuple[bool, list[tuple[str, bytes]]]]]
"""Given (channel, offset, the bytes that their frames may have together), returns whether nothing is missing, and the
(offset, payload) pairs after it."""

RECOVERIES_AT_ONCE = 16
"""Histories that are read at one time, one for a session: kills share the command link with what they bring."""


@attrs.define(eq=False)
class EventServices:
    """The parts that a session works with; `config` is replaced on reload, so it is read where it is needed.

    Attributes:
        history: reads a channel's kept events, see `broker.store`.
        log: structlog logger.
        alarms: when to ping; must run.
        recoveries: whose turn it is to read a history.
    """

    config: Config
    hub: Hub
    keys: KeyCache
    counters: Counters
    history: HistoryReader
    log: Any
    alarms: Alarms = attrs.field(factory=Alarms)
    recoveries: trio.Semaphore = attrs.field(factory=lambda: trio.Semaphore(RECOVERIES_AT_ONCE))
