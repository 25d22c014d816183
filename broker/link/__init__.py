"""Redis under Trio: connections that come back, subscriptions that are restored, and an embedded server.

redis-py is used without its I/O (addresses, TLS settings, exceptions, back-off), hiredis parses; the sockets are
Trio's. Nothing here knows what the messages mean.
"""
