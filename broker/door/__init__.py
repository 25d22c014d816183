"""The public port: accepts connections, reads HTTP, answers what is no WebSocket, and lets clients into their sessions.

No single connection can take the server down or keep it from the others, whatever bytes it sends: each is a task with a
deadline for every wait, a bound for every size, and one place where all its errors end.
"""

from broker.door.door import Door
from broker.door.health import Readiness
from broker.door.services import DoorServices
from broker.door.state import Kind

__all__ = ["Door", "DoorServices", "Kind", "Readiness"]
