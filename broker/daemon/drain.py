"""An orderly end: newcomers go elsewhere, browsers are told to reconnect, agents are let go last."""

import random

import trio

from broker.daemon.build import Broker
from broker.door.state import Kind
from protocol.codes import CloseCode

EVENTS_SHARE = 0.6
"""The part of the drain window over which event sockets are closed; the rest is for control sockets and goodbyes."""

MAX_PAUSE = 0.01
"""Seconds between two closes at the most: few clients need no long window."""


async def drain(broker: Broker) -> None:
    """Tell every client to go, and stop accepting; the door's `run` then ends with the last connection.

    Event sockets are closed one after the other in random order, so that their clients, which wait without jitter, do
    not all come back in the same instant. Accepting goes on meanwhile.
    """
    window = broker.config.server.drain_timeout * EVENTS_SHARE
    door = broker.door
    broker.readiness.draining = True
    door.begin_drain()
    peers = door.peers(Kind.EVENTS)
    random.shuffle(peers)
    pause = min(window / (len(peers) + 1), MAX_PAUSE)
    for peer in peers:
        peer.close_soon(CloseCode.RESTARTING, "restarting")
        await trio.sleep(pause * random.uniform(0.5, 1.5))
    door.stop_accepting()
    for peer in door.peers(Kind.EVENTS) + door.peers(Kind.CONTROL):
        peer.close_soon(CloseCode.RESTARTING, "restarting")
