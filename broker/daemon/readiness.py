"""Whether new clients should be sent to this broker."""

from collections.abc import Callable

import attrs

from broker.daemon.links import Links
from broker.daemon.store_watch import StoreWatch
from broker.door.health import Readiness


@attrs.define(eq=False)
class ReadinessProbe:
    """What `/health/ready` and the service manager are told.

    Attributes:
        store: knows whether Redis, where it is up, may be trusted with decisions.
        is_deaf: whether Redis is up but lets us hear no control input, or no changes of keys.
        blind_since: unix time since when control messages may have been missed, None if they were not.
        draining: the broker is about to end.
    """

    links: Links
    store: StoreWatch
    is_deaf: Callable[[], bool]
    blind_since: Callable[[], float | None]
    draining: bool = False

    def check(self) -> Readiness:
        """Return all that speaks against sending clients here."""
        problems = [f"redis_{link.name.rsplit('-')[-1]}_down" for link in self.links.all if not link.state.up]
        if self.store.unfit:
            problems.append("redis_unfit")
        if self.store.forbidden:
            problems.append("redis_forbidden")
        if self.is_deaf():
            problems.append("control_deaf")
        if self.draining:
            problems.append("draining")
        warnings = []
        if self.blind_since() is not None:
            warnings.append("control_blind")
        if self.store.report is not None and self.store.report.forgets:
            warnings.append("redis_not_durable")
        return Readiness(tuple(problems), tuple(warnings))
