"""The subscribers of one channel as a fan-out sees them: everything that it touches, side by side in memory."""

import socket
from collections.abc import Callable, Iterable
from itertools import repeat
from operator import attrgetter, call
from typing import Protocol

from broker.wire.ring import ENTRIES, Ring
from broker.wire.switches import SWITCHES

Write = Callable[[bytes], int]


class Subscriber(Protocol):
    """Something that takes a channel's frames: a connection's outbox, or a catch-up that holds them back."""

    @property
    def window(self) -> int:
        """The window of the compressed frames that it takes, see `Outbox.window`; 0 is none."""

    @property
    def write(self) -> Write:
        """Take joined frames at once and return how many bytes were taken; may raise OSError."""

    @property
    def raw(self) -> socket.socket | None:
        """The socket whose own `send` is what `write` is now, see `Outbox.raw`."""

    def rest(self, data: bytes, taken: int) -> bool:
        """Deal with what `write` has left, see `Outbox.rest`; returns whether `data` is going to arrive."""


class Roster:
    """Subscribers and, for each, its `write` as it is now.

    Good for as long as nobody's `write` is exchanged: `is_current` must be asked after every pause. With thousands of
    idle clients a fan-out waits for memory more than for anything but the system calls; a list of the sockets' own
    methods saves it the way through each outbox.

    Args:
        subscribers: who is to be written to.
        version: of the channel's membership, see `Channel.version`.

    Attributes:
        subscribers: in the order in which they are written to: first those whose sockets are.
        sockets: how many of them are written to by nothing but their sockets' `send`.
    """

    __slots__ = ("_sockets", "_switches", "_writes", "sockets", "subscribers", "version")

    def __init__(self, subscribers: Iterable[Subscriber], version: int) -> None:
        direct: list[Subscriber] = []
        others: list[Subscriber] = []
        self._sockets: list[socket.socket] = []
        for subscriber in subscribers:
            if (raw := subscriber.raw) is None:
                others.append(subscriber)
            else:
                direct.append(subscriber)
                self._sockets.append(raw)
        self.subscribers = direct + others
        self.sockets = len(self._sockets)
        self.version = version
        self._writes: list[Write] = list(map(_write_of, self.subscribers))
        self._switches = SWITCHES.count

    def is_current(self, version: int) -> bool:
        """Tell whether it still says who is there and how to write to them."""
        return self.version == version and self._switches == SWITCHES.count

    def write(self, start: int, stop: int, data: bytes, ring: Ring | None = None) -> int:
        """Write the same bytes to those between two places, and return how many took them.

        Args:
            start, stop: the places.
            data: joined frames.
            ring: writes to as many sockets together as it can; None: each has a system call of its own.
        """
        taken: list[int] = []
        if ring is not None and start < self.sockets and ring.takes(data):
            taken = ring.send(list(map(_fileno, self._sockets[start : min(stop, start + ENTRIES)])), data)
        if start + len(taken) < stop:
            self._write_singly(start + len(taken), stop, data, taken)
        size = len(data)
        if taken.count(size) == len(taken):
            return len(taken)
        told = zip(self.subscribers[start:stop], taken, strict=True)
        return sum(count == size or subscriber.rest(data, count) for subscriber, count in told)

    def _write_singly(self, start: int, stop: int, data: bytes, taken: list[int]) -> None:
        """Write to one after the other, and append what each took.

        This is the innermost loop of the broker, and runs without the interpreter for as long as the kernel takes all.
        """
        writes = iter(self._writes[start:stop])
        while True:
            try:
                taken.extend(map(call, writes, repeat(data)))
                break
            except BlockingIOError:
                taken.append(0)
            except OSError:
                taken.append(-1)


def rosters_of(subscribers: Iterable[Subscriber], version: int) -> dict[int, Roster]:
    """Return a roster for each window that somebody takes, and always one, perhaps empty, for plain frames."""
    by_window: dict[int, list[Subscriber]] = {0: []}
    for subscriber in subscribers:
        by_window.setdefault(subscriber.window, []).append(subscriber)
    return {window: Roster(alike, version) for window, alike in by_window.items()}


_write_of: Callable[[Subscriber], Write] = attrgetter("write")

_fileno = socket.socket.fileno
"""Of a socket object: a number that was kept could belong to another connection by now."""
