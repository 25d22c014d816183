"""Whether an organization can have agents: what is decided for one that cannot is a slip of the pen."""

from broker.store.layout import Layout
from broker.store.presence import read_presence
from broker.store.replies import integer
from broker.store.request import Operation, command


def is_known(layout: Layout, organization_id: str) -> Operation[bool]:
    """Tell whether an organization has an API key, a workflow that ever changed, or an agent that is connected.

    A store that lost its data knows nothing of the keys of agents that are connected all the same; the brokers that
    hold them have written back the rest.
    """
    if integer((yield command("SCARD", layout.org_keys(organization_id)))) > 0:
        return True
    if integer((yield command("HLEN", layout.workflows(organization_id)))) > 0:
        return True
    return bool((yield from read_presence(layout, organization_id)))
