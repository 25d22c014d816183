"""An orderly end: browsers are told to reconnect, one after the other; agents are let go last, and best not at all."""

import random
from collections.abc import Iterable

import trio

from broker.daemon.build import Broker
from broker.daemon.handover import Handover
from broker.door.state import Kind
from broker.wire import Peer
from protocol.codes import CloseCode

EVENTS_SHARE = 0.6
"""The part of the drain window over which event sockets are closed."""

MAX_PAUSE = 0.01
"""Seconds between two closes at the most: few clients need no long window."""

SETTLE_SECONDS = 0.5
"""How long those who came in last may take to become a session."""

FAREWELL_SECONDS = 1.5
"""From the last accept to the end of the process at the most. Newcomers wait in the kernel for the next process
meanwhile, and SDKs give up for good after ten seconds."""

AT_ONCE = 64
"""Closes after which everybody else has a turn."""


async def drain(broker: Broker, handover: Handover) -> int:
    """Tell every client to go and stop accepting; the door's `run` then ends with the last connection.

    Event sockets are closed in random order over a part of the drain window, so that their clients, which wait without
    jitter, do not all come back in the same instant. Accepting goes on meanwhile: nobody is refused. Then the control
    sessions are handed over to the next process, if there is a way; the others are closed. Whoever was accepted before
    and becomes a session after that is told the same.

    Returns how many were handed over; their tasks still exist, and there is nothing left for them to do.
    """
    door = broker.door
    broker.readiness.draining = True
    door.begin_drain()
    await _let_go_one_by_one(door.peers(Kind.EVENTS), broker.config.server.drain_timeout * EVENTS_SHARE)
    door.stop_accepting()
    with trio.move_on_after(SETTLE_SECONDS):
        await door.settled()
    await _let_all_go(door.send_away(Kind.EVENTS))
    with trio.CancelScope(shield=True):  # bounded by itself; an agent that is cut off never comes back
        handed_over = await handover.hand_over(door.peers(Kind.CONTROL))
    await _let_all_go(door.send_away(Kind.CONTROL))
    return handed_over


async def _let_go_one_by_one(peers: list[Peer], window: float) -> None:
    """Close in random order, at random moments; what the loop is behind with is made up for."""
    random.shuffle(peers)
    pause = min(window / (len(peers) + 1), MAX_PAUSE)
    began = trio.current_time()
    for count, peer in enumerate(peers):
        due = began + pause * (count + random.uniform(0, 1))
        if due > trio.current_time():
            await trio.sleep_until(due)
        elif count % AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
        _let_go(peer)


async def _let_all_go(peers: Iterable[Peer]) -> None:
    for count, peer in enumerate(peers, 1):
        _let_go(peer)
        if count % AT_ONCE == 0:
            await trio.lowlevel.checkpoint()


def _let_go(peer: Peer) -> None:
    peer.close_soon(CloseCode.RESTARTING, "restarting")
