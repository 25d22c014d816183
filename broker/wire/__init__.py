"""One client connection: its stream, its TLS, its outbox (the one gate for writes) and its WebSocket.

The wire knows bytes and frames, never what they mean; sessions live above it.
"""
