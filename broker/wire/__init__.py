"""One client connection: its stream, its TLS, its outbox (the one gate for writes) and its WebSocket.

The wire knows bytes and frames, never what they mean; sessions live above it.
"""

from broker.wire.limits import PeerLimits
from broker.wire.open_connection import OpenConnection
from broker.wire.opening import open_peer
from broker.wire.outbox import Outbox
from broker.wire.peer import Peer
from broker.wire.plain import PlainWire, WireBroken
from broker.wire.ring import Ring
from broker.wire.tls import TlsWire
from broker.wire.transmission import LOOK_SECONDS, Transmission

__all__ = [
    "LOOK_SECONDS",
    "OpenConnection",
    "Outbox",
    "Peer",
    "PeerLimits",
    "PlainWire",
    "Ring",
    "TlsWire",
    "Transmission",
    "WireBroken",
    "open_peer",
]
