"""What the tests of every room share: clients that speak raw bytes, HTTP and WebSocket over a real socket."""

from tests.support.dialing import dial
from tests.support.raw_client import HttpReply, RawClient
from tests.support.ws_client import Closed, Rejected, WsClient

__all__ = ["Closed", "HttpReply", "RawClient", "Rejected", "WsClient", "dial"]
