"""The admin listener: metrics, status and the operator API, on an address of their own and never on the public one.

It only reads what the rest of the broker counts, and changes nothing but through the operations of the store, as the
command line does: what is done here is heard by every broker.
"""

from broker.admin.lag import LoopLag
from broker.admin.listener import AdminListener
from broker.admin.services import AdminServices, Crowd

__all__ = ["AdminListener", "AdminServices", "Crowd", "LoopLag"]
