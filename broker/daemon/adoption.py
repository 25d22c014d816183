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


@attrs.define(eq=False)
class Adoption:
    """Takes up sessions, if there are any.

    Attributes:
        left: the sockets in which they wait, normally one or none; closed at the end.
        finished: set when every session that was left is here, or cannot be: from then on it can be handed over again.
    """

    broker: Broker
    notifier: Notifier
    left: Sequence[socket.socket]
    finished: trio.Event = attrs.field(factory=trio.Event)
    _unsettled: int = 1  # counts `adopt` itself, too

    async def adopt(self) -> None:
        """Take up what was left, and close with 1012 what cannot be taken up."""
        taken = closed = 0
        for channel in self.left:
            with channel:
                while (found := parcel.receive(channel)) is not None:
                    message, descriptors = found
                    here = await self._open(message, descriptors[0], [socket.socket(fileno=n) for n in descriptors[1:]])
                    taken += here
                    closed += len(descriptors) - 1 - here
        self._settle_one()
        # Also without any: as long as it keeps a copy of a socket, no close of ours would reach the client.
        self.notifier.drop(HANDOVER)
        if taken or closed:
            get_logger(part="broker").info("sessions taken up from a former process", sessions=taken, closed=closed)

    async def _open(self, message: bytes, memory: int, socks: Sequence[socket.socket]) -> int:
        """Take up the sessions of one parcel; return how many those were."""
        try:
            lines = parcel.unpack(message, memory)
            if len(lines) != len(socks):
                raise parcel.Unreadable("sockets have been lost on the way")
        except parcel.Unreadable as error:
            get_logger(part="broker").error("sessions cannot be taken up, and are closed", why=str(error))
            for sock in socks:
                _turn_away(sock)
            return 0
        finally:
            os.close(memory)
        taken = 0
        for count, (sock, line) in enumerate(zip(socks, lines, strict=True), 1):
            try:
                handed = parcel.read_session(line)
            except parcel.Unreadable as error:
                get_logger(part="broker").error("a session cannot be taken up, and is closed", why=str(error))
                _turn_away(sock)
            else:
                serve = partial(self._serve, handed.session)
                key_id = handed.session.record.key_id
                self._unsettled += 1
                self.broker.door.adopt(Adopted(sock, handed.connection, key_id, serve, self._settle_one))
                taken += 1
            if count % AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        return taken

    def _settle_one(self) -> None:
        self._unsettled -= 1
        if not self._unsettled:
            self.finished.set()

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


def _turn_away(sock: socket.socket) -> None:
    """Tell a client, as well as one can without knowing what was being sent, that the broker has restarted."""
    with sock, contextlib.suppress(OSError):
        sock.setblocking(False)
        sock.send(close_frame(CloseCode.RESTARTING, "restarting"))
        sock.shutdown(socket.SHUT_WR)
