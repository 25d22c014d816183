"""Taking up the control sessions that a former process has left with the service manager."""

import socket
from collections.abc import Sequence

import attrs

from broker.daemon.build import Broker
from broker.daemon.inherit import HANDOVER
from broker.daemon.notify import Notifier


@attrs.frozen(eq=False)
class Adoption:
    """Takes up sessions, if there are any."""

    broker: Broker
    notifier: Notifier
    left: Sequence[socket.socket]

    async def adopt(self) -> None:
        """Take up what was left."""
        for sock in self.left:
            sock.close()
        self.notifier.drop(HANDOVER)
