"""``broadcast()``: publishing without having anything at hand."""

import threading
from collections.abc import Mapping
from typing import Any

from broker.config.model import History
from broker.publisher.event import MAX_PUBLICATION_BYTES
from broker.publisher.publisher import Publisher


class _Program:
    """What a program's calls share: one publisher, made when it is first needed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.publisher: Publisher | None = None


PROGRAM = _Program()


def configure(
    url: str | None = None,
    *,
    prefix: str | None = None,
    history: Mapping[str, History] | None = None,
    max_publication_bytes: int = MAX_PUBLICATION_BYTES,
) -> None:
    """Settle where :func:`broadcast` publishes; the arguments are Publisher's. Without it the environment decides."""
    made = Publisher(url, prefix=prefix, history=history, max_publication_bytes=max_publication_bytes)
    with PROGRAM.lock:
        replaced, PROGRAM.publisher = PROGRAM.publisher, made
    if replaced is not None:
        replaced.close()


def broadcast(channel: str, event_type: str, data: Any = None) -> int:
    """Publish an event to all subscribers of a channel; returns how many brokers heard it.

    ``channel`` is say ``workflow:<slug>``, ``event_type`` say ``node_status``, ``data`` anything that has a JSON form;
    datetime, date and Decimal have one here. Safe to call from any thread. Delivery is at most once: an event that no
    broker hears is gone. On a broken connection it is tried again, so that in rare cases it arrives twice.

    Raises ValueError or TypeError for what no broker would deliver (see :func:`broker.publisher.encode_event`), and
    redis.exceptions.RedisError when Redis cannot be reached.
    """
    with PROGRAM.lock:
        if PROGRAM.publisher is None:
            PROGRAM.publisher = Publisher()
        publisher = PROGRAM.publisher
    return publisher.broadcast(channel, event_type, data)
