"""Subscribing with `since`, while the links to Redis come and go."""

from contextlib import AsyncExitStack

import attrs
import trio
import trio.testing
from redis.exceptions import NoPermissionError

from broker.config.model import Events, History
from broker.events.fanout import FanOut
from broker.events.services import RECOVERIES_AT_ONCE, EventServices, HistoryReader
from broker.events.subscriptions import ANSWER_BYTES
from broker.link.errors import LinkDown
from broker.wire.alarms import Alarms
from broker.wire.turn import MAX_WRITES
from protocol.frames import text_frame
from tests.events.browser import LIMITS, confirm, session, subscribe, surroundings

KEPT = b'{"type":"kept","channel":"workflow:a","offset":"1-2"}'


def with_history(failures: int) -> EventServices:
    """Return surroundings whose command link is down for so many reads of a history that holds one event."""
    left = [failures]

    async def history(_channel: str, _since: str, _most_bytes: int) -> tuple[bool, list[tuple[str, bytes]]]:
        await trio.lowlevel.checkpoint()
        if left[0]:
            left[0] -= 1
            raise LinkDown("away")
        return True, [("1-2", KEPT)]

    return keeping(history)


def keeping(history: HistoryReader) -> EventServices:
    """Return surroundings whose histories are read by this."""
    services = surroundings()
    services.history = history
    kept = Events(history={"workflow": History(size=10, ttl=60)})  # type: ignore[dict-item]  # the converter hides it
    services.config = attrs.evolve(services.config, events=kept)
    return services


async def test_a_command_link_that_is_down_for_a_moment(autojump_clock: trio.testing.MockClock) -> None:
    """The request stays pending until the history can be read: nothing is given up for a moment's absence."""
    services = with_history(failures=20)
    async with session(services) as browser:
        await browser.say({**subscribe("workflow:a"), "since": "1-1"})
        await trio.testing.wait_all_tasks_blocked()
        confirm(services, "workflow:a")
        assert await browser.hear() == {"type": "subscribed", "channel": "workflow:a", "recovered": True}
        assert (await browser.hear())["offset"] == "1-2"


async def test_a_command_link_that_stays_down(autojump_clock: trio.testing.MockClock) -> None:
    """After a while the client is told that nothing could be recovered, and is subscribed all the same."""
    services = with_history(failures=1_000_000)
    async with session(services) as browser:
        began = trio.current_time()
        await browser.say({**subscribe("workflow:a"), "since": "1-1"})
        await trio.testing.wait_all_tasks_blocked()
        confirm(services, "workflow:a")
        assert await browser.hear() == {"type": "subscribed", "channel": "workflow:a", "recovered": False}
        assert 9 < trio.current_time() - began < 12
        assert len(services.hub.channels[b"workflow:a"].subscribers) == 1


async def test_a_channel_that_redis_refuses_after_a_break() -> None:
    """Whoever asks for what he missed on a channel that may not be heard any more is answered, and the socket lives."""
    services = with_history(failures=0)
    async with session(services) as browser:
        await browser.say(subscribe("workflow:a"))
        await trio.testing.wait_all_tasks_blocked()
        confirm(services, "workflow:a")
        assert (await browser.hear())["type"] == "subscribed"
        channel = services.hub.channels[b"workflow:a"]
        channel.confirmation.unconfirm()
        await browser.say({**subscribe("workflow:a"), "since": "1-1"})
        await trio.testing.wait_all_tasks_blocked()
        assert browser.has_heard_nothing
        channel.confirmation.refuse(NoPermissionError("no"))
        assert (await browser.hear())["recovered"] is False
        await browser.say({"type": "unsubscribe", "channel": "workflow:a"})
        assert (await browser.hear())["type"] == "unsubscribed"


async def test_recoveries_at_once() -> None:
    """As many histories as allowed are read at once, one for a session, and of each what fits into the outbox."""
    reading = most = 0
    asked_for: set[int] = set()
    answer = trio.Event()

    async def history(_channel: str, _since: str, most_bytes: int) -> tuple[bool, list[tuple[str, bytes]]]:
        nonlocal reading, most
        asked_for.add(most_bytes)
        reading += 1
        most = max(most, reading)
        await answer.wait()
        reading -= 1
        return False, []

    services = keeping(history)
    async with AsyncExitStack() as stack:
        browsers = [
            await stack.enter_async_context(session(attrs.evolve(services, alarms=Alarms())))
            for _ in range(RECOVERIES_AT_ONCE + 1)
        ]
        asking = {**subscribe("workflow:a"), "since": "1-1"}
        await browsers[0].say(asking, asking, asking)
        await trio.testing.wait_all_tasks_blocked()
        confirm(services, "workflow:a")
        await trio.testing.wait_all_tasks_blocked()
        assert reading == 1
        for browser in browsers[1:]:
            await browser.say(asking)
        await trio.testing.wait_all_tasks_blocked()
        assert reading == RECOVERIES_AT_ONCE
        answer.set()
        for browser in browsers:
            assert (await browser.hear())["recovered"] is False
    assert (most, asked_for) == (RECOVERIES_AT_ONCE, {LIMITS.outbox_bytes - ANSWER_BYTES})


async def test_histories_that_do_not_fit_together() -> None:
    """A client that comes back to many channels, and reads slowly, is told what is not recovered, and is kept."""
    event = b'{"type":"kept","offset":"1-2","text":"%b"}' % (b"x" * 50_000)
    missed = [("1-2", event)] * (LIMITS.outbox_bytes * 6 // 10 // len(event))

    async def history(_channel: str, _since: str, most_bytes: int) -> tuple[bool, list[tuple[str, bytes]]]:
        await trio.lowlevel.checkpoint()
        return (True, missed) if len(missed) * len(event) <= most_bytes else (False, [])

    services = keeping(history)
    channels = [f"workflow:{number}" for number in range(8)]
    async with session(services) as browser:
        await browser.say(*({**subscribe(name), "since": "1-1"} for name in channels))
        for name in channels:
            await trio.testing.wait_all_tasks_blocked()
            confirm(services, name)
        await trio.testing.wait_all_tasks_blocked()
        answers: dict[str, bool] = {}
        while len(answers) < len(channels):
            heard = await browser.hear()
            if heard["type"] == "subscribed":
                answers[heard["channel"]] = heard["recovered"]
    assert answers[channels[0]] is True
    assert answers[channels[-1]] is False


async def test_others_have_their_turn_within_a_long_recovery() -> None:
    """A history of thousands goes out a stretch at a time; what is published meanwhile comes behind it, once."""
    missed = [(f"1-{number}", event(number)) for number in range(2, 6 * MAX_WRITES)]
    services = keeping(lambda *_: answer(missed))
    whole = sum(len(text_frame(payload)) for _, payload in missed)
    arrived: set[int] = set()

    async def watch() -> None:
        while True:
            await trio.lowlevel.checkpoint()
            arrived.add(browser.waiting_bytes)

    async with session(services) as browser, trio.open_nursery() as watching:
        await browser.say({**subscribe("workflow:a"), "since": "1-1"})
        await trio.testing.wait_all_tasks_blocked()
        confirm(services, "workflow:a")
        while not services.hub.subscriptions:  # what is published before that would be in the history
            await trio.lowlevel.checkpoint()
        watching.start_soon(watch)
        fan_out = FanOut(services.hub, services.counters, 1 << 20)
        for newer in range(6 * MAX_WRITES, 6 * MAX_WRITES + 20):
            await trio.lowlevel.checkpoint()
            await fan_out.on_batch([[b"message", b"workflow:a", event(newer)]])
        watching.cancel_scope.cancel()
        assert sum(0 < size < whole for size in arrived) > 1
        assert (await browser.hear())["recovered"] is True
        heard = [(await browser.hear())["offset"] for _ in range(len(missed) + 20)]
        assert heard == [f"1-{number}" for number in range(2, 6 * MAX_WRITES + 20)]
        assert browser.has_heard_nothing


def event(number: int) -> bytes:
    """Return an event as it is kept and published."""
    return b'{"type":"kept","channel":"workflow:a","offset":"1-%d"}' % number


async def answer(missed: list[tuple[str, bytes]]) -> tuple[bool, list[tuple[str, bytes]]]:
    """Be a history that has all."""
    await trio.lowlevel.checkpoint()
    return True, missed
