"""Event history, for the namespaces that keep it: appending with publishing, and catching up."""

import threading
import time
from collections.abc import Mapping
from typing import Final

import attrs
import orjson
from redis.exceptions import NoPermissionError

from broker.config.model import History
from broker.store.layout import Layout
from broker.store.replies import blob, integer, items, text
from broker.store.request import Operation, command, load_script
from protocol.channels import namespace_of
from protocol.offsets import parse_offset

PUBLISH_EVENT = load_script("publish_event")
READ_HISTORY = load_script("read_history")

_REFRESH: Final = 30.0


@attrs.frozen
class Published:
    """An event that went out: how many brokers heard it, and its offset if its namespace keeps history."""

    receivers: int
    offset: str | None


class HistorySettings:
    """Which namespaces keep how much, as given or else as the brokers have settled, read anew every 30 s."""

    def __init__(self, given: Mapping[str, History] | None = None) -> None:
        self._given = given is not None
        self._namespaces: Mapping[str, History] = given or {}
        self._read_at: float | None = None
        self._lock = threading.Lock()

    def current(self, layout: Layout) -> Operation[Mapping[str, History]]:
        """Return the settings, read from the store when they are due."""
        if self._given:
            return self._namespaces
        now = time.monotonic()
        with self._lock:
            due = self._read_at is None or now - self._read_at >= _REFRESH
        if due:
            settings = yield from read_history_settings(layout)
            with self._lock:
                self._namespaces, self._read_at = settings, now
        return self._namespaces


def settle_history(layout: Layout, namespaces: Mapping[str, History]) -> Operation[None]:
    """Write down which namespaces keep history, so that publishers without a configuration append to it."""
    settings = {name: {"size": kept.size, "ttl": kept.ttl} for name, kept in namespaces.items()}
    yield command("SET", layout.history_settings(), orjson.dumps(settings))


def read_history_settings(layout: Layout) -> Operation[Mapping[str, History]]:
    """Read what :func:`settle_history` wrote; empty if nobody did."""
    try:
        stored = yield command("GET", layout.history_settings())
    except NoPermissionError:  # a user that may only PUBLISH publishes plainly
        stored = None
    if stored is None:
        return {}
    return {name: History(**kept) for name, kept in orjson.loads(blob(stored)).items()}


def publish_event(layout: Layout, channel: str, payload: bytes, settings: HistorySettings) -> Operation[Published]:
    """Publish a checked event; where history is kept it is appended in the same step and bears its offset.

    ``payload`` is a JSON object with at least one member.
    """
    kept = (yield from settings.current(layout)).get(namespace_of(channel))
    if kept is None:
        return Published(integer((yield command("PUBLISH", layout.event(channel), payload))), None)
    stream, ttl = layout.history(channel), int(kept.ttl * 1000)
    reply = yield PUBLISH_EVENT((stream,), layout.event(channel), payload.rstrip()[:-1], kept.size, ttl)
    receivers, offset = items(reply)
    return Published(integer(receivers), text(offset))


def history_since(
    layout: Layout, channel: str, since: str, most_bytes: int
) -> Operation[tuple[bool, list[tuple[str, bytes]]]]:
    """Read the events after the offset ``since``, oldest first, each as (offset, the payload as it was published).

    The first of the pair tells whether they are all: the event at ``since`` must still be there, and their frames may
    have ``most_bytes`` together. If not, or if ``since`` is no offset, the list is empty.
    """
    after = parse_offset(since)
    if after is None:
        return False, []
    ms, number = after  # without leading zeros, as the script compares it with the ids of entries
    reply = yield READ_HISTORY((layout.history(channel),), f"{ms}-{number}", most_bytes)
    complete, *found = items(reply)
    events = zip(map(text, found[::2]), map(blob, found[1::2]), strict=True)
    return bool(integer(complete)), [(offset, with_offset(head, offset)) for offset, head in events]


def with_offset(head: bytes, offset: str) -> bytes:
    """An event without its closing brace, completed by its offset."""
    return b'%b,"offset":"%b"}' % (head, offset.encode())
