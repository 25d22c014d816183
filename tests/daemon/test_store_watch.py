"""The store changes under a running broker: it begins to evict, loses its file, forgets what publishers are told."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from broker.config import Config, loads
from broker.daemon import store_watch
from broker.daemon.startup import StoreCheck
from broker.daemon.store_watch import StoreWatch
from broker.link.address import Address
from broker.link.errors import StartupError
from broker.link.link import Link
from broker.publisher import Publisher
from broker.store.drive import run_sync
from broker.store.layout import Layout
from broker.store.schema import check_schema
from tests.conftest import Valkey
from tests.link.servers import eventually
from tests.support.whole import whole_broker

LAYOUT = Layout()
CHANNEL = "workflow:w"


@pytest.fixture
def kept(valkey: Valkey) -> Iterator[Valkey]:
    """The server; its settings are afterwards as they were."""
    yield valkey
    valkey.client.config_set("maxmemory-policy", "noeviction")
    valkey.client.config_set("maxmemory", "0")


def reconnect(valkey: Valkey) -> None:
    """Break every connection to the store, as a failover would."""
    valkey.client.client_kill_filter(_type="normal", skipme=True)


async def test_a_store_that_begins_to_evict_is_a_problem_until_it_ends(kept: Valkey) -> None:
    """It could drop a kill when memory is short: no newcomers are sent here, and those who are here stay."""
    async with whole_broker(kept.url, Config()) as whole:
        readiness = whole.broker.readiness
        await eventually(lambda: readiness.check().problems == (), "a good beginning")
        kept.client.config_set("maxmemory-policy", "allkeys-lru")
        reconnect(kept)
        await eventually(lambda: readiness.check().problems == ("redis_unfit",), "the problem")
        kept.client.config_set("maxmemory-policy", "noeviction")
        reconnect(kept)
        await eventually(lambda: readiness.check().problems == (), "the end of the problem")


async def test_a_change_is_noticed_without_a_break(kept: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to break a link first: the store is looked at once in `LOOK_SECONDS`."""
    monkeypatch.setattr(store_watch, "LOOK_SECONDS", 0.01)
    async with whole_broker(kept.url, Config()) as whole:
        kept.client.config_set("maxmemory-policy", "volatile-ttl")
        await eventually(lambda: whole.broker.readiness.check().problems == ("redis_unfit",), "the problem")


@pytest.mark.parametrize("durable", [True, False])
async def test_a_store_without_its_file_is_a_warning(valkey: Valkey, durable: bool) -> None:
    """Unless nothing is expected to last, monitors are told of it."""
    async with whole_broker(valkey.url, Config(), durable=durable) as whole:
        assert whole.broker.readiness.check().warnings == ("redis_not_durable",) * durable


async def test_a_broker_that_may_not_listen_is_deaf_until_it_may(valkey: Valkey) -> None:
    """Its links are up and look well: without this code nobody would know that plain kills are not heard."""

    def may_listen_to(channels: str) -> None:
        acl = valkey.client.acl_setuser
        acl("narrow", enabled=True, nopass=True, keys=["*"], channels=[channels], categories=["+@all"])

    may_listen_to("workflow:*")
    async with whole_broker(valkey.url.replace("unix://", "unix://narrow:x@"), Config()) as whole:
        assert whole.broker.readiness.check().problems == ("control_deaf",)
        may_listen_to("*")
        await eventually(lambda: whole.broker.readiness.check().problems == (), "hearing again")
    valkey.client.acl_deluser("narrow")


def keeps_events(valkey: Valkey) -> bool:
    """Publish as a program without a configuration does; tell whether the event can be asked for later."""
    stream = LAYOUT.history(CHANNEL)
    before = valkey.client.xrevrange(stream, count=1)
    with Publisher(valkey.url) as publisher:
        publisher.broadcast(CHANNEL, "a")
    return bool(valkey.client.xrevrange(stream, count=1) != before)


async def test_publishers_are_told_which_namespaces_keep_events(valkey: Valkey) -> None:
    """From the start, when the store has forgotten it, and when the configuration has changed."""
    keeping = loads("[events]\nhistory = {workflow = {size = 100, ttl = 60}}\n")
    async with whole_broker(valkey.url, keeping) as whole:
        assert keeps_events(valkey)
        valkey.client.flushall()
        reconnect(valkey)
        await eventually(lambda: valkey.client.exists(LAYOUT.history_settings()), "the settings")
        assert keeps_events(valkey)
        whole.broker.reconfigure(Config(redis=whole.broker.config.redis, admin=whole.broker.config.admin), None)
        await eventually(lambda: not keeps_events(valkey), "the end of it")


async def test_a_user_who_may_not_write_it_down_is_warned(valkey: Valkey) -> None:
    """The broker serves nevertheless: that publishers keep no events is no reason to lose a kill."""
    valkey.client.acl_setuser(
        "narrow",
        enabled=True,
        nopass=True,
        keys=["*"],
        channels=["*"],
        categories=["+@all"],
        commands=["-config", "-info", "-set"],
    )
    async with whole_broker(valkey.url.replace("unix://", "unix://narrow:x@"), Config()) as whole:
        assert whole.broker.store_watch.report is not None
        await eventually(lambda: whole.broker.readiness.check().problems == (), "readiness")
    valkey.client.acl_deluser("narrow")


@pytest.mark.parametrize("marked", [True, False])
async def test_a_broker_starts_on_a_store_that_is_full(kept: Valkey, marked: bool) -> None:
    """Just then it is needed: kills are the one thing that such a store takes."""
    if marked:
        run_sync(kept.client, check_schema(LAYOUT))
    kept.client.config_set("maxmemory", "1")
    async with whole_broker(kept.url, Config()) as whole:
        assert whole.broker.readiness.check().problems == ()
    if marked:
        run_sync(kept.client, check_schema(LAYOUT))  # as the commands do before they kill


async def test_a_user_who_may_not_read_our_keys(valkey: Valkey) -> None:
    """A broker that can let nobody in is not ready, and says why; it is once the right is given."""
    rights: dict[str, Any] = {"enabled": True, "nopass": True, "channels": ["*"], "categories": ["+@all"]}
    valkey.client.acl_setuser("stranger", keys=["elsewhere:*"], **rights)
    async with whole_broker(valkey.url.replace("unix://", "unix://stranger:x@"), Config()) as whole:
        assert whole.broker.readiness.check().problems == ("redis_forbidden",)
        check = StoreCheck(whole.broker)
        with trio.move_on_after(0.1):
            await check.wait_briefly()
        assert "stranger@" in check.complaint
        assert "refuses: " in check.complaint
        valkey.client.acl_setuser("stranger", keys=["*"], **rights)
        await check.wait_briefly()
        assert check.complaint == ""
        assert whole.broker.readiness.check().problems == ()
    valkey.client.acl_deluser("stranger")


async def said_by_looks(watch: StoreWatch, times: int) -> list[str]:
    """Look so many times; return what was logged about it."""
    logs: list[Any]
    with capture_logs() as logs:
        for _ in range(times):
            with suppress(StartupError):
                await watch.look()
    return [f"{line['log_level']}: {line['event']}" for line in logs]


async def test_an_unfit_store_is_said_once(kept: Valkey, nursery: trio.Nursery) -> None:
    """When it becomes so, when the reason is another, and when it is over; not at each look."""
    link = Link(Address.parse(kept.url), "test")
    await nursery.start(link.run)
    watch = StoreWatch(link, LAYOUT, {}, durable=False)
    assert await said_by_looks(watch, 2) == []
    for policy in ("allkeys-lru", "volatile-ttl"):
        kept.client.config_set("maxmemory-policy", policy)
        assert await said_by_looks(watch, 3) == ["error: the store has become unfit"]
    kept.client.config_set("maxmemory-policy", "noeviction")
    assert await said_by_looks(watch, 2) == ["info: the store is fit again"]


async def test_a_warning_is_said_once_each_time(valkey: Valkey, nursery: trio.Nursery) -> None:
    """One that comes back after it was gone is news."""

    def may(*commands: str) -> None:
        valkey.client.acl_setuser(
            "narrow", enabled=True, nopass=True, keys=["*"], channels=["*"], categories=["+@all"], commands=commands
        )

    may()
    link = Link(Address.parse(valkey.url.replace("unix://", "unix://narrow:x@")), "test")
    await nursery.start(link.run)
    watch = StoreWatch(link, LAYOUT, {}, durable=False)
    for _ in range(2):
        assert await said_by_looks(watch, 2) == []
        may("-set")
        [said] = await said_by_looks(watch, 3)
        assert said.startswith("warning: publishers are not told which namespaces keep events")
        may("+set")
    valkey.client.acl_deluser("narrow")


def last_commands(valkey: Valkey) -> set[str]:
    """What the connections to the store asked last."""
    return {each["cmd"] for each in valkey.client.client_list()}


async def test_a_link_that_breaks_under_a_look(kept: Valkey) -> None:
    """It is no complaint about the store, and no end of looking."""
    async with whole_broker(kept.url, Config()) as whole:
        watch = whole.broker.store_watch
        with capture_logs() as logs:
            kept.client.client_pause(60_000, all=False)
            watch.bell.ring()
            await eventually(lambda: "set" in last_commands(kept), "what is written at the end of a look")
            reconnect(kept)
            await watch.link.wait_down()
            kept.client.client_unpause()
            await watch.link.wait_up()
        assert not [line for line in logs if line["event"].startswith("publishers are not told")]
        kept.client.config_set("maxmemory-policy", "allkeys-lru")
        watch.bell.ring()
        await eventually(lambda: watch.unfit, "the next look")


async def test_nobody_is_sent_to_a_broker_that_ends_or_lacks_a_link(valkey: Valkey) -> None:
    """Each of the three links counts, from the moment in which it breaks."""
    async with whole_broker(valkey.url, Config()) as whole:
        readiness = whole.broker.readiness
        await eventually(lambda: readiness.check().problems == (), "a good beginning")
        for link in readiness.links.all:
            link.leave("for this test")
            assert f"redis_{link.name.rpartition('-')[2]}_down" in readiness.check().problems
            await eventually(lambda: readiness.check().problems == (), "the end of the problem")
        readiness.draining = True
        assert readiness.check().problems == ("draining",)
