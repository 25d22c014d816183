"""The key cache: API keys read from the store once, forgotten the moment they change.

Only the SHA-256 of an API key is ever kept or asked for. A change is heard on the channel of key changes; what was
missed there is caught by short lifetimes here and by the re-reading of watched keys.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

import attrs
import trio
from redis.exceptions import RedisError

from broker.keys.errors import KeysUnavailable
from broker.keys.watches import Callback, Watches
from broker.observe import Counters, Repeated, get_logger
from broker.store.drive import Call, run
from broker.store.errors import DamagedKey, SealError
from broker.store.key_record import KeyRecord, hash_of
from broker.store.keys import decode_key_change, lookup_key
from broker.store.layout import Layout
from broker.store.sealer import UNSEALED, Sealer

FRESH_SECONDS = 10.0
"""How long a record answers without asking the store again."""

STALE_SECONDS = 60.0
"""How long a record answers after the store last confirmed it, while the store is away."""

UNKNOWN_SECONDS = 2.0
"""How long "there is no such key" answers."""

MAX_KNOWN = 20_000
"""Records that are kept; the longest unread ones go first."""

MAX_UNKNOWN = 4_096
"""Hashes that are remembered as being no key's."""

MAX_LOOKUPS = 64
"""Look-ups that may be under way at the store."""

LOOKUP_SECONDS = 3.0
"""How long one look-up may take, the wait for its turn included."""


@attrs.define(eq=False)
class _Known:
    record: KeyRecord
    confirmed_at: float  # trio time


@attrs.define(eq=False)
class _Flight:
    """One look-up under way, which everybody who asks for the same key waits for."""

    landed: trio.Event = attrs.field(factory=trio.Event)
    failed: bool = False


class KeyCache:
    """Look-ups of API keys, and the live sessions that want to know when theirs changes.

    Args:
        layout: names in the store.
        call: the command link's `call`.
        counters: `key_lookups` and `key_cache_hits` are raised here.
        clock: unix time in seconds.
        sealer: reads the secrets if they are sealed at rest.
    """

    def __init__(
        self,
        layout: Layout,
        call: Call,
        counters: Counters,
        clock: Callable[[], float] = time.time,
        sealer: Sealer = UNSEALED,
    ) -> None:
        self._layout = layout
        self._sealer = sealer
        self._call = call
        self._counters = counters
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._flights: dict[str, _Flight] = {}
        self._changes = 0  # how often anything changed: what was being read meanwhile may be old
        self._lookups = trio.Semaphore(MAX_LOOKUPS)
        self._say = Repeated(get_logger(part="keys"))
        self._watches = Watches(self._read, clock)

    async def lookup(self, api_key: str) -> KeyRecord | None:
        """Return the record of `api_key`, None if there is none; revoked and expired ones are returned too.

        Raises:
            KeysUnavailable: the store is away, and the key was not confirmed in the last `STALE_SECONDS`.
        """
        if not api_key or len(api_key) > 512:
            return None
        return await self.lookup_hash(hash_of(api_key))

    def recall(self, api_key: str) -> KeyRecord | None:
        """Return what is known of `api_key` without asking the store, be it a little old; None if that is nothing."""
        known = self._known.get(hash_of(api_key))
        return None if known is None else known.record

    def invalidate(self, key_hash: str) -> None:
        """Forget what is known of one key; look-ups that are under way are repeated."""
        self._changes += 1
        self._known.pop(key_hash, None)
        self._unknown.pop(key_hash, None)
        self._watches.suspect(key_hash)

    def on_change(self, payload: bytes) -> None:
        """Take one message of the channel of key changes; one that cannot be read makes everything suspect."""
        try:
            change = decode_key_change(payload)
        except ValueError:
            self.suspect_all()
        else:
            self.invalidate(change.hash)

    def suspect_all(self) -> None:
        """Changes may have been missed: ask the store before the next answer, and re-read every watched key soon."""
        for known in self._known.values():
            known.confirmed_at = min(known.confirmed_at, trio.current_time() - FRESH_SECONDS)
        self._unknown.clear()
        self._changes += 1
        self._watches.suspect_all()

    def watch(self, record: KeyRecord, callback: Callback) -> Callable[[], None]:
        """Call `callback` whenever the key of `record` changes, until the function that is returned is called.

        It gets the new record, or None when the key admits nobody any more (revoked, expired). A key that merely
        vanished from the store, as all do when a store comes back empty, changes nothing.
        """
        known = self._known.get(record.hash)
        is_current = known is not None and (known.record is record or known.record == record)
        return self._watches.add(record, callback, disputed=not is_current)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the watched keys current: changes at once, everything every 10 s, expiry to the second."""
        await self._watches.run(task_status)

    async def lookup_hash(self, key_hash: str) -> KeyRecord | None:
        """Return the record of the key whose SHA-256 hex this is, at once if it is known; see `lookup`."""
        while True:
            now = trio.current_time()
            known = self._known.get(key_hash)
            if known is not None and now - known.confirmed_at < FRESH_SECONDS:
                self._counters.key_cache_hits += 1
                return known.record
            if self._unknown.get(key_hash, 0.0) > now:
                self._counters.key_cache_hits += 1
                return None
            flight = self._flights.get(key_hash)
            if flight is None:
                return await self._ask(key_hash)
            await flight.landed.wait()  # what it found is in the cache; if it was cancelled, the next one asks
            if flight.failed:
                return self._settle(key_hash)

    async def _ask(self, key_hash: str) -> KeyRecord | None:
        flight = self._flights[key_hash] = _Flight()
        try:
            return await self._read(key_hash)
        except KeysUnavailable:
            flight.failed = True
            return self._settle(key_hash)
        finally:
            del self._flights[key_hash]
            flight.landed.set()

    async def _read(self, key_hash: str) -> KeyRecord | None:
        """Read one key from the store; raises KeysUnavailable when it cannot be asked."""
        try:
            with trio.fail_after(LOOKUP_SECONDS):
                async with self._lookups:
                    return await self._read_settled(key_hash)
        except SealError as error:
            self._say.error("seal", "the secret of a key cannot be read: it admits nobody", why=str(error))
            raise KeysUnavailable(str(error)) from None
        except DamagedKey as error:
            self._say.error(key_hash, "a key in the store cannot be read: it admits nobody", why=str(error))
            raise KeysUnavailable(str(error)) from None
        except (RedisError, trio.TooSlowError, ValueError) as error:
            raise KeysUnavailable(str(error)) from None

    async def _read_settled(self, key_hash: str) -> KeyRecord | None:
        while True:
            changes, asked_at = self._changes, trio.current_time()
            self._counters.key_lookups += 1
            record = await run(self._call, lookup_key(self._layout, key_hash, self._sealer))
            if changes == self._changes:
                self._remember(key_hash, record, asked_at)
                return record

    def _settle(self, key_hash: str) -> KeyRecord:
        """Answer without the store, by what is known by now: a change may have been heard during the wait for it."""
        known = self._known.get(key_hash)
        if known is not None and trio.current_time() - known.confirmed_at < STALE_SECONDS:
            return known.record
        raise KeysUnavailable

    def _remember(self, key_hash: str, record: KeyRecord | None, asked_at: float) -> None:
        if record is None:
            if (lost := self._known.pop(key_hash, None)) is not None:
                self._say.error(
                    "lost",
                    "the store came back without its data: API keys are gone, too",
                    hint="restore them or add new ones: sessions that are open go on, new ones are refused",
                    key_id=lost.record.key_id,
                    org=lost.record.organization_id,
                )
            self._unknown[key_hash] = asked_at + UNKNOWN_SECONDS
            if len(self._unknown) > MAX_UNKNOWN:
                self._unknown.popitem(last=False)
            return
        self._unknown.pop(key_hash, None)
        self._known[key_hash] = _Known(record, asked_at)
        self._known.move_to_end(key_hash)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
