"""Whether new clients should be sent to this broker."""

from collections.abc import Callable

import attrs

from broker.daemon.links import Links
from broker.door.health import Readiness


@attrs.define(eq=False)
class ReadinessProbe:
    """What `/health/ready` and the service manager are told.

    Attributes:
        blind_since: unix time since when control messages may have been missed, None if they were not.
        draining: the broker is about to end.
    """

    links: Links
    blind_since: Callable[[], float | None]
    draining: bool = False

    def check(self) -> Readiness:
        """Return all that speaks against sending clients here."""
        problems = [f"redis_{link.name.rsplit('-')[-1]}_down" for link in self.links.all if not link.state.up]
        if self.draining:
            problems.append("draining")
        warnings = () if self.blind_since() is None else ("control_blind",)
        return Readiness(tuple(problems), warnings)
