"""Saying the same thing at most once in a while."""

import time
from collections.abc import Callable
from typing import Any

MAX_KEYS = 1024


class Repeated:
    """A log in front of which the same complaint is made at most once per `interval` seconds.

    What was swallowed is counted, and the next line of that key carries the count as `repeated`. The table of keys is
    bounded: when it is full, the oldest goes.
    """

    def __init__(self, log: Any, interval: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._interval = interval
        self._clock = clock
        self._seen: dict[str, tuple[float, int]] = {}

    def say(self, level: str, key: str, event: str, **fields: object) -> bool:
        """Log `event` at `level` unless `key` was said within the interval; tell whether it was logged."""
        now = self._clock()
        last = self._seen.get(key)
        if last is not None and now - last[0] < self._interval:
            self._seen[key] = (last[0], last[1] + 1)
            return False
        if last is None and len(self._seen) >= MAX_KEYS:
            del self._seen[next(iter(self._seen))]
        self._seen.pop(key, None)
        self._seen[key] = (now, 0)
        if last is not None and last[1]:
            fields["repeated"] = last[1]
        getattr(self._log, level)(event, **fields)
        return True

    def info(self, key: str, event: str, **fields: object) -> bool:
        """Say it at level info."""
        return self.say("info", key, event, **fields)

    def warning(self, key: str, event: str, **fields: object) -> bool:
        """Say it at level warning."""
        return self.say("warning", key, event, **fields)

    def error(self, key: str, event: str, **fields: object) -> bool:
        """Say it at level error."""
        return self.say("error", key, event, **fields)
