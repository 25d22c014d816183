"""Asking a browser whether it is there; one that leaves a ping unanswered is closed with 4408."""

import random

import trio

from broker.events.services import EventServices
from broker.wire.peer import Peer
from protocol.codec import encode
from protocol.codes import CloseCode
from protocol.events import Ping
from protocol.frames import text_frame

__all__ = ["Heartbeat"]

PING = text_frame(encode(Ping()))


class Heartbeat:
    """Pings one client every `events.ping_interval`, and gives it `events.pong_timeout` to answer.

    Not a task: thousands of idle connections do nothing else, and what a task takes to be started and woken is more
    than all of this. The alarms call `ring` when it is time; an alarm cannot be taken back, so that some ring in vain.
    """

    __slots__ = ("_asked", "_due", "_peer", "_services")

    def __init__(self, peer: Peer, services: EventServices) -> None:
        self._peer: Peer | None = peer
        self._services = services
        self._asked = False
        self._wait(services.config.events.ping_interval * random.uniform(0.5, 1))  # those that came together are spread

    def answer(self) -> None:
        """Take note of a pong; one that nobody has asked for changes nothing."""
        if self._asked:
            self._asked = False
            self._wait(self._services.config.events.ping_interval)

    def ring(self) -> None:
        """Do what is due by now, if anything is."""
        peer = self._peer
        if peer is None or trio.current_time() < self._due:
            return
        if self._asked and peer.has_unread:  # we stood still, or hold it back: its pong may be among that
            self._wait(self._services.config.events.pong_timeout)
        elif self._asked:
            self._services.counters.heartbeats_missed += 1
            peer.close_soon(CloseCode.HEARTBEAT_MISSED, "no pong")
            self.stop()
        else:
            self._asked = True
            peer.send(PING)
            self._wait(self._services.config.events.pong_timeout)

    def stop(self) -> None:
        """Ask nothing more, and let go of the client."""
        self._peer = None

    def _wait(self, seconds: float) -> None:
        self._due = self._services.alarms.set(self, seconds)
