"""How long the store keeps what happened."""

import attrs

from broker.config.model import Control
from broker.store.request import Argument


@attrs.frozen
class LogLimits:
    """Bounds of an organization's log and of receipts.

    Entries older than ``retention`` seconds are trimmed; a log above ``max_entries`` is cut and the cut is counted.
    Message ids are remembered for ``retention`` too. Receipts last ``receipt_ttl`` seconds.

    Whoever gives limits settles them for the organization; callers that give none go by those, so that a publisher
    never trims by another rule than the brokers.
    """

    retention: float = 3600.0
    max_entries: int = 100_000
    receipt_ttl: float = 86400.0

    @classmethod
    def of(cls, control: Control) -> "LogLimits":
        """The limits that a configuration asks for."""
        return cls(retention=control.log_retention, max_entries=control.log_max_entries)


def limit_args(limits: LogLimits | None) -> tuple[Argument, Argument, Argument]:
    """The limits as a script's arguments: milliseconds and entries, empty for "as settled"."""
    if limits is None:
        return "", "", ""
    return int(limits.retention * 1000), limits.max_entries, int(limits.receipt_ttl * 1000)
