"""The protocol computes; the broker does I/O.

Everything here is a pure function or a frozen value: no event loop, no sockets, no Redis, no clock (a time is always a
parameter). Whatever a peer or a publisher sends, the only exception that leaves this package is
:class:`protocol.errors.ProtocolError`.
"""
