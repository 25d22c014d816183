"""The peer: what one would write by hand today, websockets on uvloop behind one Redis subscription.

python -m tests.bench.peer PORT REDIS_PORT [CERTIFICATE KEY]
"""

import asyncio
import json
import logging
import ssl
import sys
from collections import defaultdict

import redis.asyncio
from websockets.asyncio.server import ServerConnection, broadcast, serve


class Peer:
    """Clients by channel, and the subscription that they share."""

    def __init__(self, redis_port: int) -> None:
        self._pubsub = redis.asyncio.Redis(port=redis_port).pubsub()
        self._listeners: defaultdict[str, set[ServerConnection]] = defaultdict(set)
        self._begun = asyncio.Event()

    async def handle(self, client: ServerConnection) -> None:
        """Subscribe a client to what it asks for, until it goes."""
        channels: set[str] = set()
        try:
            async for text in client:
                request = json.loads(text)
                if request["type"] != "subscribe":
                    continue
                channel = request["channel"]
                if not self._listeners[channel]:
                    await self._pubsub.subscribe(channel)
                    self._begun.set()
                self._listeners[channel].add(client)
                channels.add(channel)
                await client.send(json.dumps({"type": "subscribed", "channel": channel}))
        finally:
            for channel in channels:
                self._listeners[channel].discard(client)

    async def pump(self) -> None:
        """Hand on what is published, for ever."""
        await self._begun.wait()
        async for message in self._pubsub.listen():
            if message["type"] == "message":
                broadcast(self._listeners[message["channel"].decode()], message["data"].decode())


async def main(port: int, redis_port: int, certificate: str = "", key: str = "") -> None:
    """Serve until killed."""
    logging.getLogger("websockets").addHandler(logging.NullHandler())
    logging.getLogger("websockets").propagate = False
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    peer = Peer(redis_port)
    async with serve(peer.handle, "127.0.0.1", port, compression=None, ssl=context):
        await peer.pump()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
