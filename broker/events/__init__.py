"""The event socket: channels that browsers subscribe to, fed by plain PUBLISH.

The hub never awaits a peer. What a subscriber cannot take waits in its own outbox.
"""
