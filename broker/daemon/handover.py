"""Control sessions that outlive the process: their sockets wait with the service manager for the next one."""

from collections.abc import Sequence

import attrs

from broker.daemon.notify import Notifier
from broker.wire import Peer


@attrs.frozen(eq=False)
class Handover:
    """Gives open control sessions to the service manager."""

    notifier: Notifier

    async def hand_over(self, peers: Sequence[Peer]) -> None:
        """Give away what can be given away."""
