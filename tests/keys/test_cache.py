import json
from collections.abc import Callable

import attrs
import pytest
import structlog
import trio
from trio.testing import MockClock

from broker.keys import KeyCache, KeysUnavailable
from broker.link.errors import LinkDown
from broker.observe import Counters
from broker.store import keys
from broker.store.drive import run_sync
from broker.store.key_record import KeyRecord, KeyStatus
from broker.store.layout import Layout
from broker.store.master_key import MasterKey
from tests.conftest import Valkey

LAYOUT = Layout()
NO_HASH = b'{"hash":[],"key_id":"key_1","organization_id":"acme","change":"added","version":1}'


@attrs.define(eq=False)
class Line:
    """A call to the server that can be cut or hang, and let something happen while a reply is on its way."""

    valkey: Valkey
    up: bool = True
    hangs: bool = False
    meanwhile: Callable[[], None] | None = None

    async def call(self, *args: object) -> object:
        if not self.up:
            await trio.lowlevel.checkpoint()
            raise LinkDown("cut")
        if self.hangs:
            await trio.sleep_forever()
        reply: object = self.valkey.client.execute_command(*args)  # type: ignore[no-untyped-call]
        await trio.lowlevel.checkpoint()
        if self.meanwhile is not None:
            happening, self.meanwhile = self.meanwhile, None
            happening()
        return reply


@attrs.define(eq=False)
class Time:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@attrs.frozen(eq=False)
class Setup:
    line: Line
    cache: KeyCache
    counters: Counters
    time: Time


@pytest.fixture
def setup(valkey: Valkey) -> Setup:
    """A key cache on the test's server."""
    line, counters, time = Line(valkey), Counters(), Time()
    return Setup(line, KeyCache(LAYOUT, line.call, counters, time), counters, time)


def add(valkey: Valkey, expires_at: int | None = None) -> tuple[str, KeyRecord]:
    """Make a key; returns the API key and its record."""
    made = run_sync(valkey.client, keys.add_key(LAYOUT, "acme", expires_at=expires_at))
    return made.api_key, made.record


async def test_found_once_then_cached(setup: Setup, valkey: Valkey, autojump_clock: MockClock) -> None:
    """A key is read from the store once in ten seconds, an unknown one once in two."""
    api_key, record = add(valkey)
    assert await setup.cache.lookup(api_key) == record
    assert await setup.cache.lookup(api_key) == record
    assert setup.counters.key_lookups == 1
    await trio.sleep(10.1)
    await setup.cache.lookup(api_key)
    assert setup.counters.key_lookups == 2
    for _ in range(3):
        assert await setup.cache.lookup("nr_live_no") is None
    assert setup.counters.key_lookups == 3
    await trio.sleep(2.1)
    assert await setup.cache.lookup("nr_live_no") is None
    assert setup.counters.key_lookups == 4


async def test_many_askers_one_lookup(setup: Setup, valkey: Valkey) -> None:
    """A thousand clients with one key that come at once cost one look-up, even if the first one goes away."""
    api_key, record = add(valkey)
    found: list[KeyRecord | None] = []

    async def ask() -> None:
        found.append(await setup.cache.lookup(api_key))

    async with trio.open_nursery() as nursery:
        first = trio.CancelScope()

        async def ask_and_leave() -> None:
            with first:
                await ask()

        nursery.start_soon(ask_and_leave)
        for _ in range(1000):
            nursery.start_soon(ask)
        first.cancel()
    assert found.count(record) >= 1000
    assert setup.counters.key_lookups <= 2


async def test_change_during_a_lookup(setup: Setup, valkey: Valkey) -> None:
    """A key that is revoked while it is being read is read again: the old record is never remembered."""
    api_key, record = add(valkey)

    def revoke() -> None:
        run_sync(valkey.client, keys.revoke_key(LAYOUT, record.key_id))
        setup.cache.invalidate(record.hash)

    setup.line.meanwhile = revoke
    found = await setup.cache.lookup(api_key)
    assert found is not None
    assert found.refusal(0) == "revoked"


async def test_store_away(setup: Setup, valkey: Valkey, autojump_clock: MockClock) -> None:
    """While the store is away a cached key opens for a minute after its last confirmation, and no longer."""
    api_key, record = add(valkey)
    await setup.cache.lookup(api_key)
    setup.line.up = False
    await trio.sleep(59)
    assert await setup.cache.lookup(api_key) == record
    await trio.sleep(2)
    with pytest.raises(KeysUnavailable):
        await setup.cache.lookup(api_key)
    with pytest.raises(KeysUnavailable):
        await setup.cache.lookup("nr_live_other")
    setup.line.up = True
    assert await setup.cache.lookup(api_key) == record


async def test_a_change_that_is_heard_while_the_store_hangs(
    setup: Setup, valkey: Valkey, autojump_clock: MockClock
) -> None:
    """A key whose revocation is heard while a look-up waits in vain opens nothing more, for nobody who waits."""
    api_key, record = add(valkey)
    await setup.cache.lookup(api_key)
    await trio.sleep(10.1)
    setup.line.hangs = True
    refused = 0

    async def ask() -> None:
        nonlocal refused
        with pytest.raises(KeysUnavailable):
            await setup.cache.lookup(api_key)
        refused += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        nursery.start_soon(ask)
        await trio.sleep(1)
        setup.cache.invalidate(record.hash)
    assert refused == 2


async def test_watchers_hear_of_changes(setup: Setup, valkey: Valkey, autojump_clock: MockClock) -> None:
    """A rotation is told with the new record, a revocation as None; one that was not announced within ten seconds."""
    _, record = add(valkey)
    heard: list[KeyRecord | None] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(setup.cache.run)
        unwatch = setup.cache.watch(record, heard.append)
        rotated = run_sync(valkey.client, keys.rotate_key(LAYOUT, record.key_id))
        setup.cache.invalidate(record.hash)
        await trio.sleep(0.1)
        assert heard == [rotated]
        run_sync(valkey.client, keys.revoke_key(LAYOUT, record.key_id))
        await trio.sleep(10.1)
        assert heard == [rotated, None]
        await trio.sleep(30)
        assert len(heard) == 2
        unwatch()
        setup.cache.invalidate(record.hash)
        await trio.sleep(0.1)
        assert len(heard) == 2
        nursery.cancel_scope.cancel()


async def test_watchers_hear_of_expiry(setup: Setup, valkey: Valkey, autojump_clock: MockClock) -> None:
    """A key that expires ends its sessions within a second, although nothing changes in the store."""
    api_key, record = add(valkey, expires_at=1_000_050)
    heard: list[KeyRecord | None] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(setup.cache.run)
        await setup.cache.lookup(api_key)
        setup.cache.watch(record, heard.append)
        setup.time.now = 1_000_049.9
        await trio.sleep(1)
        assert heard == []
        setup.time.now = 1_000_050.0
        await trio.sleep(1)
        assert heard == [None]
        nursery.cancel_scope.cancel()


async def test_a_session_that_begins_after_the_expiry_was_told(
    setup: Setup, valkey: Valkey, autojump_clock: MockClock
) -> None:
    """Who was let in before the key expired, and comes when others have been told, is told too, store or not."""
    api_key, record = add(valkey, expires_at=1_000_050)
    first: list[KeyRecord | None] = []
    late: list[KeyRecord | None] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(setup.cache.run)
        await setup.cache.lookup(api_key)
        setup.cache.watch(record, first.append)
        setup.time.now = 1_000_050.0
        await trio.sleep(1)
        assert first == [None]
        setup.line.up = False
        setup.cache.watch(record, late.append)
        await trio.sleep(1)
        assert late == [None]
        nursery.cancel_scope.cancel()


async def test_a_store_without_its_data_ends_no_session(
    setup: Setup, valkey: Valkey, autojump_clock: MockClock
) -> None:
    """A key that vanished with all others is not revoked: the sessions that it opened must still hear a kill."""
    api_key, record = add(valkey)
    heard: list[KeyRecord | None] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(setup.cache.run)
        setup.cache.watch(record, heard.append)
        valkey.client.flushall()
        await trio.sleep(30)
        assert heard == []
        setup.cache.suspect_all()
        assert await setup.cache.lookup(api_key) is None
        nursery.cancel_scope.cancel()


async def test_keys_that_vanish_are_mentioned_once(setup: Setup, valkey: Valkey, autojump_clock: MockClock) -> None:
    """Whoever wonders about the 401s after a loss of the store finds one error in the log that says what happened."""
    made = [add(valkey) for _ in range(3)]
    with structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            await nursery.start(setup.cache.run)
            for api_key, record in made[:2]:
                assert await setup.cache.lookup(api_key) == record
                setup.cache.watch(record, lambda _: None)
            assert await setup.cache.lookup(made[2][0]) is not None
            assert await setup.cache.lookup("nr_live_never_was") is None
            assert logs == []
            valkey.client.flushall()
            await trio.sleep(30)
            assert await setup.cache.lookup(made[2][0]) is None
            nursery.cancel_scope.cancel()
    (line,) = logs
    assert (line["log_level"], line["event"]) == (
        "error", "the store came back without its data: API keys are gone, too",
    )  # fmt: skip


async def test_outdated_record_is_settled(setup: Setup, valkey: Valkey, autojump_clock: MockClock) -> None:
    """A session that was let in with a record older than what others hold is told how it is now."""
    _, record = add(valkey)
    rotated = run_sync(valkey.client, keys.rotate_key(LAYOUT, record.key_id))
    first: list[KeyRecord | None] = []
    second: list[KeyRecord | None] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(setup.cache.run)
        setup.cache.watch(rotated, first.append)
        setup.cache.watch(record, second.append)
        await trio.sleep(0.1)
        assert second == [rotated]
        nursery.cancel_scope.cancel()


async def test_revoked_before_the_watch_began(setup: Setup, valkey: Valkey, autojump_clock: MockClock) -> None:
    """A key that is revoked between a client's admission and its session's first look is noticed at once."""
    api_key, record = add(valkey)
    heard: list[KeyRecord | None] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(setup.cache.run)
        assert await setup.cache.lookup(api_key) == record
        run_sync(valkey.client, keys.revoke_key(LAYOUT, record.key_id))
        setup.cache.invalidate(record.hash)
        setup.cache.watch(record, heard.append)
        await trio.sleep(0.1)
        assert heard == [None]
        nursery.cancel_scope.cancel()


async def test_a_key_that_was_asked_for_too_early(setup: Setup, valkey: Valkey, autojump_clock: MockClock) -> None:
    """A key that is made after somebody has come with it opens at once, when that is told and when it may have been."""
    ways: tuple[Callable[[bytes], None], ...] = setup.cache.on_change, lambda _: setup.cache.suspect_all()
    for number, tell in enumerate(ways):
        api_key = f"nr_live_{number}"
        assert await setup.cache.lookup(api_key) is None
        made = run_sync(valkey.client, keys.add_key(LAYOUT, "acme", api_key=api_key)).record
        assert await setup.cache.lookup(api_key) is None
        change = {"hash": made.hash, "key_id": made.key_id, "organization_id": "acme", "change": "added", "version": 1}
        tell(json.dumps(change).encode())
        assert await setup.cache.lookup(api_key) == made


@pytest.mark.parametrize("payload", [b"not JSON", b"{}", b'{"hash":"x"}', NO_HASH])
async def test_a_change_that_cannot_be_read(setup: Setup, valkey: Valkey, payload: bytes) -> None:
    """A change of nobody knows which key makes every key be asked for again."""
    api_key, record = add(valkey)
    await setup.cache.lookup(api_key)
    run_sync(valkey.client, keys.revoke_key(LAYOUT, record.key_id))
    setup.cache.on_change(payload)
    found = await setup.cache.lookup(api_key)
    assert found is not None
    assert found.refusal(0) == "revoked"


async def test_changes_may_be_missed_during_a_lookup(setup: Setup, valkey: Valkey) -> None:
    """A link that comes back while a key is being read makes it be read again: the change in between was not heard."""
    api_key, record = add(valkey)

    def revoke() -> None:
        run_sync(valkey.client, keys.revoke_key(LAYOUT, record.key_id))
        setup.cache.suspect_all()

    setup.line.meanwhile = revoke
    found = await setup.cache.lookup(api_key)
    assert found is not None
    assert found.refusal(0) == "revoked"


async def test_watchers_hear_soon_of_what_was_missed(setup: Setup, valkey: Valkey, autojump_clock: MockClock) -> None:
    """What was changed while the link was down is told when it is back, not only when the timer asks."""
    api_key, record = add(valkey)
    heard: list[KeyRecord | None] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(setup.cache.run)
        assert await setup.cache.lookup(api_key) == record
        setup.cache.watch(record, heard.append)
        run_sync(valkey.client, keys.revoke_key(LAYOUT, record.key_id))
        setup.cache.suspect_all()
        await trio.sleep(0.1)
        assert heard == [None]
        nursery.cancel_scope.cancel()


async def test_a_sealed_secret_that_cannot_be_read(valkey: Valkey) -> None:
    """A key whose secret is sealed with a master key that we have not is no answer, and the log says why, once."""
    sealer = MasterKey(bytes(32))
    made = run_sync(valkey.client, keys.add_key(LAYOUT, "acme", sealer=sealer))
    with structlog.testing.capture_logs() as logs:
        cache = KeyCache(LAYOUT, Line(valkey).call, Counters())
        for _ in range(2):
            with pytest.raises(KeysUnavailable):
                await cache.lookup(made.api_key)
    (line,) = logs
    assert (line["log_level"], line["event"]) == ("error", "the secret of a key cannot be read: it admits nobody")
    assert sealer.fingerprint in line["why"]


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("status", None, "status is missing"),
        ("status", "asleep", "asleep"),
        ("organization_id", None, "organization_id is missing"),
        ("organization_id", "!", "organization_id"),
        ("key_id", "!", "key_id"),
        ("channels", "workflow:*", "unexpected character"),
        ("channels", "5", "no array of strings"),
        ("channels", "[5]", "no array of strings"),
        ("expires_at", "tomorrow", "tomorrow"),
        ("version", "9007199254740991", "version"),
    ],
)
async def test_a_key_that_is_damaged_in_the_store(
    setup: Setup, valkey: Valkey, autojump_clock: MockClock, name: str, value: str | None, why: str
) -> None:
    """A hash that is no key any more admits nobody, and says so; whoever watches it is left alone, and hears later.

    Whoever watches another key hears of that as ever.
    """
    api_key, record = add(valkey)
    _, other = add(valkey)
    heard: list[KeyRecord | None] = []
    heard_of_other: list[KeyRecord | None] = []
    stored = LAYOUT.key(record.hash)
    with structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            await nursery.start(setup.cache.run)
            setup.cache.watch(record, heard.append)
            setup.cache.watch(other, heard_of_other.append)
            if value is None:
                valkey.client.hdel(stored, name)
            else:
                valkey.client.hset(stored, name, value)
            setup.cache.suspect_all()
            await trio.sleep(15)
            with pytest.raises(KeysUnavailable):
                await setup.cache.lookup(api_key)
            run_sync(valkey.client, keys.revoke_key(LAYOUT, other.key_id))
            setup.cache.invalidate(other.hash)
            await trio.testing.wait_all_tasks_blocked()
            assert (heard, heard_of_other[-1]) == ([], None)
            valkey.client.delete(stored)
            run_sync(valkey.client, keys.put_key(LAYOUT, attrs.evolve(record, status=KeyStatus.REVOKED)))
            await trio.sleep(15)
            assert heard == [None]
            nursery.cancel_scope.cancel()
    (line,) = [line for line in logs if line["event"] == "a key in the store cannot be read: it admits nobody"]
    assert f"{'!' if name == 'key_id' else record.key_id} is damaged" in line["why"]
    assert why in line["why"]
