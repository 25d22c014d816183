"""Remembers bad tokens for a minute, to slow down a client that tries the same one again and again."""

from collections import OrderedDict, deque
from hashlib import sha256

__all__ = ["BadTokens"]

WINDOW = 60.0
"""Seconds for which an attempt counts."""

ADMITTED = 3
"""Attempts of one token and address within the window that are answered with a readable close."""

MAX_ENTRIES = 4096
"""Pairs of token and address that are remembered."""


class BadTokens:
    """Counts bad attempts per token and address, in a table that forgets the longest unused entries first.

    A browser can read a close code but not the status of a refused upgrade, and an opened socket resets its back-off.
    So the first attempts are opened and closed with 1008, and the ones after them are refused with 401.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[bytes, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def admit(self, token: str | None, host: str, now: float) -> bool:
        """Count one bad attempt; returns whether it should be told by a close rather than refused.

        Args:
            token: what was presented; only a hash of it is kept.
            host: the client's address as limits count it.
            now: seconds on any clock that does not go back.
        """
        name = sha256(f"{host}\0{token or ''}".encode("utf-8", "surrogatepass")).digest()
        attempts = self._entries.setdefault(name, deque(maxlen=ADMITTED))
        self._entries.move_to_end(name)
        if len(self._entries) > MAX_ENTRIES:
            self._entries.popitem(last=False)
        admitted = len(attempts) < ADMITTED or now - attempts[0] >= WINDOW
        attempts.append(now)
        return admitted
