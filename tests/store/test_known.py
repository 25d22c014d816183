"""Which organizations can have agents."""

from broker.store.apply import apply
from broker.store.brokers import heartbeat
from broker.store.keys import add_key
from broker.store.known import is_known
from broker.store.presence import Presence, put_presence
from protocol.control import StateChangeInput
from protocol.states import State
from tests.conftest import Valkey
from tests.store.helpers import LAYOUT, done


def test_what_makes_an_organization_known(valkey: Valkey) -> None:
    """A key, a workflow that changed, or an agent that is connected: each alone will do."""
    done(valkey, add_key(LAYOUT, "with-a-key"))
    done(valkey, apply(LAYOUT, "with-a-workflow", StateChangeInput("wf", State.PAUSED)))
    done(valkey, heartbeat(LAYOUT, "b", {}))
    done(valkey, put_presence(LAYOUT, "with-an-agent", "b", {"s": Presence("k", None, 1)}))
    assert all(done(valkey, is_known(LAYOUT, f"with-{what}")) for what in ("a-key", "a-workflow", "an-agent"))
    assert not done(valkey, is_known(LAYOUT, "with-nothing"))
