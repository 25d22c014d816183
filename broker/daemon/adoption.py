"""Taking up the control sessions that a former process has left with the service manager."""

import contextlib
import os
import socket
from collections.abc import Sequence
from functools import partial

import attrs
import trio

from broker.control.carried import CarriedSession
from broker.control.session import run_control_session
from broker.daemon import parcel
from broker.daemon.build import Broker
from broker.daemon.inherit import HANDOVER
from broker.daemon.notify import Notifier
from broker.door.adopted import Adopted
from broker.observe import get_logger
from broker.wire import Peer
from protocol.codes import CloseCode
from protocol.frames import close_frame

AT_ONCE = 8
"""Sessions taken up before everybody else has a turn."""


@attrs.frozen(eq=False)
class Adoption:
    """Takes up sessions, if there are any.

    Attributes:
        left: the sockets in which they wait, normally one or none; closed at the end.
    """

    broker: Broker
    notifier: Notifier
    left: Sequence[socket.socket]

    async def adopt(self) -> None:
        """Take up what was left, and close with 1012 what cannot be taken up."""
        taken = closed = 0
        for channel in self.left:
            with channel:
                while (found := parcel.receive(channel)) is not None:
                    message, descriptors = found
                    socks = [socket.socket(fileno=descriptor) for descriptor in descriptors[1:]]
                    try:
                        sessions = parcel.unpack(message, descriptors[0])
                    except parcel.Unreadable as error:
                        get_logger(part="broker").error("sessions cannot be taken up", why=str(error))
                        closed += _turn_away(socks)
                    else:
                        taken += await self._take_up(socks, sessions)
                    finally:
                        os.close(descriptors[0])
        # Also without any: as long as it keeps a copy of a socket, no close of ours would reach the client.
        self.notifier.drop(HANDOVER)
        if taken or closed:
            self.broker.keys.suspect_all()  # whatever happened to their keys in between was heard by nobody
            get_logger(part="broker").info("sessions taken up from a former process", sessions=taken, closed=closed)

    async def _take_up(self, socks: Sequence[socket.socket], sessions: Sequence[parcel.HandedSession]) -> int:
        for count, (sock, handed) in enumerate(zip(socks, sessions, strict=True), 1):
            serve = partial(self._serve, handed.session)
            self.broker.door.adopt(Adopted(sock, handed.connection, handed.session.record.key_id, serve))
            if count % AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        return len(sessions)

    async def _serve(self, carried: CarriedSession, peer: Peer) -> None:
        record = carried.record
        services = self.broker.control.services
        await run_control_session(
            peer,
            record,
            carried.api_key,
            record.organization_id,
            services,
            secret=carried.secret,
            carried=carried,
        )


def _turn_away(socks: Sequence[socket.socket]) -> int:
    """Tell clients, as well as one can without knowing what was being sent, that the broker has restarted."""
    for sock in socks:
        with sock, contextlib.suppress(OSError):
            sock.setblocking(False)
            sock.send(close_frame(CloseCode.RESTARTING, "restarting"))
            sock.shutdown(socket.SHUT_WR)
    return len(socks)
