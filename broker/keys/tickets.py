"""Single-use tickets for event sockets, made with a key and good for what that key is good for."""

from typing import Final

import trio
from redis.exceptions import RedisError

from broker.keys.cache import KeyCache
from broker.keys.errors import KeysUnavailable
from broker.store.drive import Call, run
from broker.store.key_record import KeyRecord
from broker.store.layout import Layout
from broker.store.tickets import make_ticket, take_ticket

LIFETIME: Final = 30
"""Seconds in which a ticket must be used."""

PATIENCE: Final = 3.0
"""Seconds that the store may take."""


class Tickets:
    """Makes and takes tickets, in the store: any broker takes those of any other.

    Args:
        layout: names in the store.
        call: the command link's `call`.
        keys: looks up the keys of tickets.
    """

    lifetime = LIFETIME

    def __init__(self, layout: Layout, call: Call, keys: KeyCache) -> None:
        self._layout = layout
        self._call = call
        self._keys = keys

    async def make(self, record: KeyRecord) -> str:
        """Return a new ticket for a key; raises KeysUnavailable when the store is away."""
        try:
            with trio.fail_after(PATIENCE):
                return await run(self._call, make_ticket(self._layout, record.hash, LIFETIME))
        except (RedisError, trio.TooSlowError) as error:
            raise KeysUnavailable(str(error)) from None

    async def take(self, ticket: str) -> KeyRecord | None:
        """Use a ticket up and return its key as it is now, be it revoked; None if the ticket is no good.

        Raises:
            KeysUnavailable: the store is away; the ticket may be used up.
        """
        try:
            with trio.fail_after(PATIENCE):
                key_hash = await run(self._call, take_ticket(self._layout, ticket))
        except (RedisError, trio.TooSlowError) as error:
            raise KeysUnavailable(str(error)) from None
        return None if key_hash is None else await self._keys.lookup_hash(key_hash)
