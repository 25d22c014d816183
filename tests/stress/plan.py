"""How big a stress run is."""

import attrs

from tests.soak.plan import Plan as Load

__all__ = ["Plan"]


@attrs.frozen
class Plan:
    """The numbers of one run; the defaults are those of `make stress`.

    Attributes:
        browsers: event sockets; each watches two channels.
        visitors: of these, those that leave when everybody is in, and make room for others.
        agents: control sockets.
        late: agents, and browsers, that come when all places are taken; no more than there are visitors.
        browser_keys: API keys that the browsers share; one of them is revoked in a storm.
        crowded: there are so many that a line forms at the door: agents must be in before half of the browsers are.
        channels: of all browsers.
        hostile: how many there are of each kind of broken or hostile client.
        slow_heads: how many send their head a byte at a time, until `head` is over.
        half_open: how many never answer a ping.
        wanderings: how often a browser of those that churn subscribes and unsubscribes.
        ping: events.ping_interval, seconds.
        pong: events.pong_timeout, seconds; who is well must answer in it while all others connect.
        head: limits.handshake_timeout, seconds.
        outage: how long the store is away, seconds.
        drain: whether all come back for a second storm, in the middle of which the broker is drained.
        growth_kib: what the broker may keep of its memory when all are gone.
        again: how many then come and go twice more; from the first time to the second memory may grow by `leak_kib`.
        patience: how long anything may take, in seconds, on a machine that does other things besides.
    """

    browsers: int = 1900
    visitors: int = 100
    agents: int = 100
    late: int = 10
    browser_keys: int = 20
    crowded: bool = True
    channels: int = 40
    hostile: int = 10
    slow_heads: int = 10
    half_open: int = 10
    wanderings: int = 20
    ping: float = 5.0
    pong: float = 20.0
    head: float = 15.0
    outage: float = 2.0
    drain: bool = True
    growth_kib: int = 131072
    again: int = 300
    leak_kib: int = 3072
    patience: float = 180.0

    @property
    def load(self) -> Load:
        """What is published meanwhile."""
        return Load(channels=self.channels, orgs=2, workflows=5, publications_per_second=20, changes_per_second=2)

    @property
    def max_connections(self) -> int:
        """Just enough for everybody, and for nobody else."""
        return self.browsers + self.agents
