"""Control sessions that outlive the process: their sockets wait with the service manager for the next one.

SDKs in the field never come back after a close, and a restart must not make them deaf. So a restart does not close:
the sockets themselves travel, with all that is known of them, through one socket that the service manager keeps.
"""

import contextlib
import os
import select
import socket
from collections.abc import Sequence

import attrs
import trio

from broker.control.carried import CarriedSession
from broker.daemon import parcel
from broker.daemon.build import Broker
from broker.daemon.inherit import HANDOVER
from broker.daemon.notify import Notifier
from broker.observe import get_logger
from broker.wire import Peer

SETTLE_SECONDS = 0.5
"""How long sessions may take to deal with what they have read already."""

LOOK_AGAIN = 0.01
"""Seconds between two looks at whether all sessions have settled."""

SUSPENDED_AT_ONCE = 128
"""Sessions that stop reading before everybody else has a turn."""


@attrs.frozen(eq=False)
class Handover:
    """Gives open control sessions to the service manager."""

    broker: Broker
    notifier: Notifier

    async def hand_over(self, peers: Sequence[Peer]) -> int:
        """Give away what can be given away, and return how many that was; the others are as they were.

        A connection with TLS cannot be: the state of its encryption is OpenSSL's and stays with the process.
        """
        movable = [peer for peer in peers if not (peer.closing or peer.wire.encrypted)]
        if not movable or not self.notifier.is_heard:
            return 0
        log = get_logger(part="broker")
        channel = await self._open_channel()
        if channel is None:
            log.warning("sessions cannot be handed over: the service manager keeps nothing", sessions=len(movable))
            return 0
        given = 0
        with channel:
            await _settle(movable)
            for start in range(0, len(movable), parcel.MAX_SOCKETS):
                try:
                    given += self._give(channel, movable[start : start + parcel.MAX_SOCKETS])
                except OSError as error:
                    log.error("sessions could not be handed over", error=str(error))
                    break
                await trio.lowlevel.checkpoint()
        log.info("sessions handed over to the next process", sessions=given, of=len(peers))
        return given

    async def _open_channel(self) -> socket.socket | None:
        """Return our end of a channel whose other end the service manager keeps; None if it does not.

        It does not say so when it keeps nothing (FileDescriptorStoreMax=0): then nobody has the other end.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            self.notifier.keep(theirs.fileno(), HANDOVER)
            worked_off = await self.notifier.barrier()
        if worked_off and not _is_alone(ours):
            return ours
        ours.close()
        self.notifier.drop(HANDOVER)
        return None

    def _give(self, channel: socket.socket, peers: Sequence[Peer]) -> int:
        """Send one parcel; from then on these sessions are another process's. All in one step of the loop."""
        going: list[tuple[Peer, CarriedSession]] = []
        with contextlib.ExitStack() as copies:
            descriptors: list[int] = []
            for peer in peers:
                session = self.broker.control.carry(peer)
                if session is None or peer.closing:
                    continue  # it has ended meanwhile
                descriptors.append(os.dup(peer.wire.raw.fileno()))
                copies.callback(os.close, descriptors[-1])
                going.append((peer, session))
            # Only with all descriptors at hand: there is no way back for a peer that is handed over.
            message, memory = parcel.pack(parcel.HandedSession(peer.hand_over(), session) for peer, session in going)
            copies.callback(os.close, memory)
            parcel.send(channel, message, memory, descriptors)
        return len(going)


async def _settle(peers: Sequence[Peer]) -> None:
    """Stop reading, and let what was read be dealt with: an ack that is half done would be lost."""
    for count, peer in enumerate(peers, 1):
        peer.suspend()
        if count % SUSPENDED_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
    with trio.move_on_after(SETTLE_SECONDS):
        # ASYNC110 wants an event: one for each session would be used once in its life, if ever
        while not all(peer.is_settled or peer.closing for peer in peers):  # noqa: ASYNC110  see above
            await trio.sleep(LOOK_AGAIN)


def _is_alone(sock: socket.socket) -> bool:
    """Whether nobody holds the other end of a socket pair."""
    poll = select.poll()
    poll.register(sock, 0)
    return bool(poll.poll(0))
