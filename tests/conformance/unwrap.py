"""A way to a broker that speaks TLS, for a client that would not trust its certificate."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["plain_way_to"]

CHUNK = 65536


@asynccontextmanager
async def plain_way_to(where: str) -> AsyncIterator[str]:
    """Yield an address on loopback whose every connection is carried on to `where`, "host:port", over TLS."""
    host, _, port = where.rpartition(":")
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(host, int(port), ssl=context)
        await asyncio.gather(_pass_on(reader, there_writer), _pass_on(there_reader, writer))

    carrying: set[asyncio.Task[None]] = set()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(carry(reader, writer))
        carrying.add(task)
        task.add_done_callback(carrying.discard)

    async with await asyncio.start_server(begin, "127.0.0.1", 0) as server:
        name = server.sockets[0].getsockname()
        try:
            yield f"{name[0]}:{name[1]}"
        finally:
            for task in carrying:
                task.cancel()
            await asyncio.gather(*carrying, return_exceptions=True)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until one of the two is gone, and close the other."""
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
