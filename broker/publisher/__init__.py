"""Publishing from any Python program: web endpoints, queue workers, scripts. Synchronous, and without trio.

from broker import broadcast, Publisher

broadcast("workflow:my-wf", "node_status", {"node_id": "agent_1", "status": "success"})
Publisher("redis://localhost").kill("acme", "my-wf", reason="runaway", actor="alice")
"""

from broker.publisher.event import MAX_PUBLICATION_BYTES, encode_event
from broker.publisher.publisher import Publisher, Refused
from broker.publisher.shared import broadcast, configure

__all__ = ["MAX_PUBLICATION_BYTES", "Publisher", "Refused", "broadcast", "configure", "encode_event"]
