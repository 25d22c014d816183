"""Control input and a store that does not take it."""

import json

import attrs
import pytest
import structlog
import trio
import trio.testing
from redis.exceptions import ResponseError

from broker.control import horizon
from broker.control import input as module
from broker.control.input import InputDesk
from broker.control.lane import GIVE_UP_SECONDS
from broker.link.address import Address
from broker.link.errors import LinkDown
from broker.link.subscriptions import SubscriptionLink
from broker.observe import Counters
from broker.store.layout import Layout
from broker.store.limits import LogLimits
from tests.conftest import Valkey
from tests.control.broker import ORG, Broker, add_key
from tests.control.clients import eventually

PAUSE = json.dumps({"type": "state_change", "workflow_id": "wf", "state": "Paused"}).encode()
FLAG = json.dumps({"type": "state_change", "workflow_id": "wf", "state": "Flagged"}).encode()


@attrs.define(eq=False)
class Store:
    """Answers as it is told to, and knows when it applied something."""

    error: Exception | None = None
    takes: bytes | None = None  # whatever holds these words, also while it refuses the rest
    away: list[bool] = attrs.field(factory=list)  # at the next calls
    asked: list[tuple[object, ...]] = attrs.field(factory=list)
    applied_at: list[float] = attrs.field(factory=list)

    async def call(self, *words: object) -> object:
        await trio.lowlevel.checkpoint()
        self.asked.append(words)
        if self.away and self.away.pop(0):
            raise LinkDown("away")
        if self.error is not None and not (self.takes and any(self.takes in bytes(each) for each in map(_raw, words))):
            raise self.error
        self.applied_at.append(trio.current_time())
        return [b"applied", 1, 1, 1, b"e", b"m", b"", 0]


def _raw(word: object) -> bytes:
    return word if isinstance(word, bytes) else str(word).encode()


def kill(workflow: str) -> bytes:
    """Return a publication that kills a workflow."""
    return json.dumps({"type": "state_change", "workflow_id": workflow, "state": "Killed"}).encode()


def desk_at(store: Store, counters: Counters, link: SubscriptionLink | None = None) -> InputDesk:
    """Return a desk that is not running."""
    return InputDesk(
        layout=Layout(),
        call=store.call,
        link=link or SubscriptionLink(Address.parse("redis://127.0.0.1:1"), "control"),
        counters=counters,
        log=structlog.get_logger("test"),
        broker_id="b1",
        limits=LogLimits(),
        present=lambda _organization_id: True,
    )


async def test_a_store_that_was_away_has_its_time_to_refuse(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A store that is away is waited for without end, and what it refuses at first when it is back is tried again."""
    store, counters = Store(LinkDown("away")), Counters()
    desk = desk_at(store, counters)
    await nursery.start(desk.run)
    await desk.accept(b"control:acme", PAUSE)
    await trio.sleep(2 * GIVE_UP_SECONDS)
    store.error = ResponseError("LOADING")
    await trio.sleep(GIVE_UP_SECONDS / 2)
    store.error = None
    await trio.sleep(2)
    assert (len(store.applied_at), counters.control_applied["applied"]) == (1, 1)
    assert not counters.control_inputs_refused


async def test_a_store_that_refuses_for_long(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    """What the store refuses for a minute is given up and counted, if it is no kill; what comes then has its turn."""
    store, counters = Store(ResponseError("WRONGTYPE")), Counters()
    desk = desk_at(store, counters)
    await nursery.start(desk.run)
    await desk.accept(b"control:acme", FLAG)
    await desk.accept(b"control:acme", FLAG)
    await trio.sleep(GIVE_UP_SECONDS - 1)
    assert not counters.control_inputs_refused
    await trio.sleep(3)
    assert counters.control_inputs_refused == {"store_error": 2}
    assert desk.waiting == 0, "their places are free again"
    store.error = None
    await desk.accept(b"control:acme", FLAG)
    await trio.sleep(2)
    assert counters.control_applied == {"applied": 1}


async def test_a_refusal_from_before_the_store_was_away(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """The time in which nobody was there to refuse anything does not count."""
    store, counters = Store(ResponseError("LOADING")), Counters()
    desk = desk_at(store, counters)
    await nursery.start(desk.run)
    await desk.accept(b"control:acme", FLAG)
    await trio.sleep(5)
    store.error = LinkDown("away")
    await trio.sleep(2 * GIVE_UP_SECONDS)
    store.error = ResponseError("LOADING")
    await trio.sleep(5)
    store.error = None
    await trio.sleep(2)
    assert (counters.control_applied, counters.control_inputs_refused) == ({"applied": 1}, {})


@pytest.mark.parametrize(("refused", "within"), [(FLAG, 0.0), (kill("bad"), 0.1)])
async def test_a_kill_is_tried_at_once(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, refused: bytes, within: float
) -> None:
    """However long the store has refused what is before it: a pause for that is none for the kill."""
    store, counters = Store(ResponseError("no"), takes=b"good"), Counters()
    desk = desk_at(store, counters)
    await nursery.start(desk.run)
    await desk.accept(b"control:acme", refused)
    await trio.sleep(GIVE_UP_SECONDS / 2 + 0.1)
    heard_at = trio.current_time()
    await desk.accept(b"control:acme", kill("good"))
    await trio.sleep(5)
    [applied_at] = store.applied_at
    assert applied_at - heard_at <= within


async def test_a_store_that_goes_away_again(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    """However long it was away before: once it has taken something it is asked again at once."""
    store = Store(away=[*[True] * 10, False, True, False])
    desk = desk_at(store, Counters())
    await nursery.start(desk.run)
    await desk.accept(b"control:acme", PAUSE)
    await desk.accept(b"control:acme", PAUSE)
    began = trio.current_time()
    await trio.sleep(60)
    first, second = store.applied_at
    assert first - began > 5, "it was asked at longer and longer intervals"
    assert 0 < second - first <= 2 * module.RETRY_SECONDS[0]


async def test_when_a_publication_was_made(
    nursery: trio.Nursery, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is told when it was heard, and since when it can have been published: since the time was last asked."""
    monkeypatch.setattr(horizon, "ASK_SECONDS", 3600)
    store, link = Store(), SubscriptionLink(Address.parse(valkey.url), "control")
    desk = desk_at(store, Counters(), link)
    await nursery.start(desk.run)
    await nursery.start(link.run)
    await link.psubscribe(b"control:*").wait()
    await eventually(lambda: link.server_ms() > link.subscribed_at)
    before = link.server_ms()
    await desk.accept(b"control:acme", PAUSE)
    await eventually(lambda: store.asked)
    assert store.asked[0][14:16] == ("b1", link.subscribed_at)
    heard, vouched, after, generation = store.asked[0][-4:]
    assert (vouched, after, generation) == ("1", link.subscribed_at, 1)
    assert before <= int(str(heard)) <= link.server_ms()
    nursery.cancel_scope.cancel()


async def test_the_time_is_asked_for_again(
    nursery: trio.Nursery, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whatever a link brings that is up for long would count as late."""
    monkeypatch.setattr(horizon, "ASK_SECONDS", 0.001)
    store, link = Store(), SubscriptionLink(Address.parse(valkey.url), "control")
    desk = desk_at(store, Counters(), link)
    await nursery.start(desk.run)
    await nursery.start(link.run)
    await link.psubscribe(b"control:*").wait()
    after = link.subscribed_at
    with trio.fail_after(10):
        while after <= link.subscribed_at:
            await desk.accept(b"control:acme", PAUSE)
            await eventually(lambda: not desk.waiting)
            after = int(str(store.asked[-1][-2]))
    nursery.cancel_scope.cancel()


async def test_an_end_without_a_link(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    """Whoever is not connected hears nothing: the end waits for what was heard before, and for no answer."""
    store = Store()
    desk = desk_at(store, Counters())
    await nursery.start(desk.run)
    await desk.accept(b"control:acme", PAUSE)
    with trio.fail_after(10):
        await desk.finish()
    assert len(store.applied_at) == 1


async def test_places_are_given_back(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """So many may wait, the one more holds the link up until one of them is applied; that goes on for ever."""
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    store, counters = Store(LinkDown("away")), Counters()
    desk = desk_at(store, counters)
    await nursery.start(desk.run)
    with trio.move_on_after(10) as patience:
        for _ in range(3):
            await desk.accept(b"control:acme", PAUSE)
    assert patience.cancelled_caught
    store.error = None
    with trio.fail_after(10):
        for _ in range(5):
            await desk.accept(b"control:acme", PAUSE)
    await trio.sleep(1)
    assert counters.control_applied == {"applied": 7}


async def test_an_organization_that_nobody_knows(broker: Broker, valkey: Valkey) -> None:
    """Input for an organization without a key and without a session here is not applied: a slip of the pen."""
    valkey.client.publish(f"control:{ORG}", PAUSE)
    await eventually(lambda: broker.counters.control_applied)
    assert broker.counters.control_applied == {"no_key": 1}
    assert not valkey.client.exists("signalbox:{acme}:workflows")


async def test_an_organization_that_is_not_the_channels() -> None:
    """A publication that names another organization than its channel is meant for neither of them."""
    store, counters = Store(), Counters()
    desk = desk_at(store, counters)
    await desk.accept(b"control:acme", PAUSE[:-1] + b', "organization_id": "other"}')
    assert (counters.control_inputs_refused, desk.waiting) == ({"organization_mismatch": 1}, 0)


async def test_an_end_hears_nothing_more(broker: Broker, valkey: Valkey) -> None:
    """What was published before is applied when the end is there; after that PUBLISH tells that nobody has heard it."""
    add_key(valkey)
    assert valkey.client.publish(f"control:{ORG}", kill("wf")) == 1
    await broker.plane.finish()
    assert broker.counters.control_applied == {"applied": 1}
    assert valkey.client.publish(f"control:{ORG}", kill("wf")) == 0
