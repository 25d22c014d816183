"""An orderly end: newcomers go elsewhere, browsers are told to reconnect, agents are let go last."""

import random

import trio

from broker.daemon.build import Broker
from broker.door.state import Kind
from protocol.codes import CloseCode

EVENTS_SHARE = 0.6
"""The part of the drain window over which event sockets are closed; the rest is for control sockets and goodbyes."""


async def drain(broker: Broker) -> None:
    """Close everything within `server.drain_timeout` seconds.

    Event sockets are closed one after the other in random order, so that their clients, which wait without jitter, do
    not all come back in the same instant. Accepting goes on meanwhile.
    """
    window = broker.config.server.drain_timeout
    door = broker.door
    broker.readiness.draining = True
    door.begin_drain()
    with trio.move_on_after(window):
        peers = door.peers(Kind.EVENTS)
        random.shuffle(peers)
        pause = min(window * EVENTS_SHARE, len(peers) * 0.001) / max(1, len(peers))
        for peer in peers:
            peer.close_soon(CloseCode.RESTARTING, "restarting")
            await trio.sleep(pause)
        door.stop_accepting()
        for peer in door.peers(Kind.EVENTS) + door.peers(Kind.CONTROL):
            peer.close_soon(CloseCode.RESTARTING, "restarting")
        while door.peers(Kind.EVENTS) or door.peers(Kind.CONTROL):
            await trio.sleep(0.01)
