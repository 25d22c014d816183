"""A browser's session over a real socket pair: commands in order, limits at their bounds, the end."""

import attrs
import pytest
import trio
from redis.exceptions import NoPermissionError

from broker.events.session import MAX_BAD_MESSAGES, RESUBSCRIPTION_SPARE
from broker.events.subscriptions import WAITING_PER_SUBSCRIPTION
from broker.wire import Outbox
from tests.events.browser import KEY, confirm, session, subscribe, surroundings


async def test_commands_wait_for_redis_and_are_answered_in_their_order() -> None:
    """While a subscription is unconfirmed nothing behind it is answered; then everything is, in order."""
    services = surroundings()
    async with session(services) as browser:
        await browser.say(
            subscribe("workflow:a"),
            subscribe("secret:b"),
            {"type": "unsubscribe", "channel": "workflow:never"},
            b"nonsense",
            subscribe("workflow:a"),
        )
        await trio.testing.wait_all_tasks_blocked()
        assert browser.has_heard_nothing
        confirm(services, "workflow:a")
        answers = [await browser.hear() for _ in range(5)]
    assert [each["type"] for each in answers] == ["subscribed", "error", "unsubscribed", "error", "subscribed"]
    assert [each.get("code") for each in answers if each["type"] == "error"] == ["forbidden_channel", "invalid_json"]


async def test_a_channel_that_cannot_be_seen_is_explained() -> None:
    """A slip in a channel's name is told from a channel of others."""
    services = surroundings()
    names = "channels are epic:NAME, execution:NAME, workflow:NAME"
    async with session(services, attrs.evolve(KEY, channels=("workflow:a",))) as browser:
        for channel, why in (
            ("workflow:b", "this key may not see this channel"),
            ("workflows:a", names),
            ("workflow", names),
            ("workflow:", names),
        ):
            await browser.say(subscribe(channel))
            answer = await browser.hear()
            assert (answer["code"], answer["channel"], answer["message"]) == ("forbidden_channel", channel, why)


async def test_what_a_client_says_is_counted() -> None:
    """Messages, whatever becomes of them, and their bytes, which are more than their characters."""
    services = surroundings()
    said = [b'{"type":"pong"}', '{"type":"é€"}'.encode(), b"nonsense"]
    async with session(services) as browser:
        await browser.say(*said)
        for _ in said[1:]:
            assert (await browser.hear())["type"] == "error"
    assert (services.counters.messages, services.counters.message_bytes) == (3, sum(map(len, said)))


async def test_nonsense_is_not_read_on_while_too_much_waits_for_redis() -> None:
    """What waits behind an unconfirmed subscription is bounded, errors included; all of it is answered in the end."""
    services = surroundings(max_subscriptions=2)
    room = 2 * WAITING_PER_SUBSCRIPTION
    async with session(services) as browser:
        await browser.say(subscribe("workflow:a"))
        await trio.testing.wait_all_tasks_blocked()
        await browser.say(*[b"nonsense", b'{"type": "pong"}'] * 20)
        await trio.testing.wait_all_tasks_blocked()
        assert services.counters.messages_refused["invalid_json"] == room + 1
        confirm(services, "workflow:a")
        answers = [(await browser.hear())["type"] for _ in range(21)]
    assert answers == ["subscribed"] + ["error"] * 20


async def test_two_subscriptions_to_one_channel_are_one() -> None:
    """Subscribing twice is answered twice and held once; unsubscribing gives the channel back."""
    services = surroundings()
    async with session(services) as browser:
        await browser.say(subscribe("workflow:a"), subscribe("workflow:a"))
        await trio.testing.wait_all_tasks_blocked()
        confirm(services, "workflow:a")
        assert [(await browser.hear())["type"] for _ in range(2)] == ["subscribed"] * 2
        assert services.hub.subscriptions == services.counters.subscriptions == 1
        await browser.say({"type": "unsubscribe", "channel": "workflow:a"})
        assert (await browser.hear())["type"] == "unsubscribed"
        assert services.hub.channels == {}


async def test_a_subscription_that_redis_refuses_is_told_and_leaves_nothing() -> None:
    """An ACL that forbids the channel is an error for this channel alone."""
    services = surroundings()
    async with session(services) as browser:
        await browser.say(subscribe("workflow:a"))
        await trio.testing.wait_all_tasks_blocked()
        services.hub.channels[b"workflow:a"].confirmation.refuse(NoPermissionError("no"))
        answer = await browser.hear()
        assert (answer["type"], answer["code"], answer["channel"]) == ("error", "unavailable", "workflow:a")
        assert services.hub.channels == {}


async def test_the_bound_on_channels_is_exact() -> None:
    """The last one that fits is subscribed, the next is refused, and one given up makes room."""
    services = surroundings(max_subscriptions=2)
    async with session(services) as browser:
        names = ["workflow:1", "workflow:2", "workflow:3"]
        answers = []
        for name in names:
            await browser.say(subscribe(name))
            await trio.testing.wait_all_tasks_blocked()
            if name.encode() in services.hub.channels:
                confirm(services, name)
            answers.append(await browser.hear())
        assert [each["type"] for each in answers] == ["subscribed", "subscribed", "error"]
        assert answers[2]["code"] == "too_many_subscriptions"
        await browser.say({"type": "unsubscribe", "channel": names[0]}, subscribe(names[2]))
        assert (await browser.hear())["type"] == "unsubscribed"
        await trio.testing.wait_all_tasks_blocked()
        confirm(services, names[2])
        assert (await browser.hear())["type"] == "subscribed"


@pytest.mark.parametrize(("bad", "ends"), [(MAX_BAD_MESSAGES - 1, False), (MAX_BAD_MESSAGES, True)])
async def test_bad_messages_in_a_row_end_with_4400_at_the_bound(bad: int, ends: bool) -> None:
    """One below the bound is answered to the last; a good one in between starts the count anew."""
    services = surroundings()
    async with session(services) as browser:
        await browser.say(*[b"{}"] * (MAX_BAD_MESSAGES - 1), {"type": "pong"}, *[b"{}"] * bad)
        if ends:
            assert await browser.ending() == 4400
        else:
            answers = [await browser.hear() for _ in range(MAX_BAD_MESSAGES - 1 + bad)]
            assert {each["type"] for each in answers} == {"error"}


async def test_a_whole_resubscription_passes_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """As many messages as the allowance holds are answered without the clock moving; one more has to wait."""
    services = surroundings(max_subscriptions=10, messages_per_second=1)
    async with session(services) as browser:
        began = trio.current_time()
        room = 10 + RESUBSCRIPTION_SPARE
        await browser.say(*[b"{}"] * room)
        for _ in range(room):
            await browser.hear()
        assert trio.current_time() == began
        await browser.say(b"{}")
        await browser.hear()
        assert 0.9 <= trio.current_time() - began <= 1.1


async def test_a_client_that_stays_above_its_rate_ends_with_4429(autojump_clock: trio.testing.MockClock) -> None:
    """Reading pauses first; after the patience, and not before, the socket is closed."""
    services = surroundings(max_subscriptions=1, messages_per_second=2)
    patience = services.config.limits.rate_patience
    async with session(services) as browser:
        began = trio.current_time()
        await browser.say(*[b'{"type":"x"}'] * (RESUBSCRIPTION_SPARE + 1 + int(2 * patience) + 20))
        assert await browser.ending() == 4429
        assert patience <= trio.current_time() - began <= patience + 2


async def test_who_comes_down_to_the_rate_may_go_above_it_again(autojump_clock: trio.testing.MockClock) -> None:
    """A client that was paused for a moment, and then keeps just below its rate, has relented."""
    services = surroundings(max_subscriptions=1, messages_per_second=50)
    async with session(services) as browser:
        await browser.say(*[b'{"type":"pong"}'] * (RESUBSCRIPTION_SPARE + 1 + 5))
        await trio.sleep(0.1)
        for _ in range(12 * 49):
            await browser.say(b'{"type":"pong"}')
            await trio.sleep(1 / 49)
        began = trio.current_time()
        await browser.say(*[b'{"type":"pong"}'] * 30, b"{}")
        assert (await browser.hear())["type"] == "error"
        assert trio.current_time() > began, "it was paused"


async def test_a_session_that_ends_leaves_nothing_behind() -> None:
    """However a session ends, its channels are given back, also those that were never confirmed."""
    services = surroundings()
    async with session(services) as browser:
        await browser.say(subscribe("workflow:a"), subscribe("workflow:b"))
        await trio.testing.wait_all_tasks_blocked()
        confirm(services, "workflow:a")
        await browser.hear()
        await browser.stream.aclose()
        with trio.fail_after(5):
            while services.hub.channels:
                await trio.testing.wait_all_tasks_blocked()
    assert services.counters.subscriptions == 0


async def test_what_need_not_wait_is_answered_without_a_task() -> None:
    """A session has a task for its subscriptions only while one of them waits for Redis."""
    services = surroundings()
    services.hub.hold("workflow:a")
    confirm(services, "workflow:a")
    spawned = Spawned()
    async with session(services) as browser:
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(spawned)
        await browser.say(subscribe("workflow:a"), {"type": "unsubscribe", "channel": "workflow:a"})
        assert [(await browser.hear())["type"] for _ in range(2)] == ["subscribed", "unsubscribed"]
        assert spawned.tasks == 0
        await browser.say(subscribe("workflow:b"), subscribe("workflow:c"))
        await trio.testing.wait_all_tasks_blocked()
        assert spawned.tasks == 1
        trio.lowlevel.remove_instrument(spawned)


class Spawned(trio.abc.Instrument):
    """Counts the tasks that begin."""

    tasks = 0

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        """One more."""
        self.tasks += 1


async def test_others_have_their_turn_while_what_has_waited_is_carried_out() -> None:
    """Redis comes back to thousands of commands: they are carried out a stretch at a time, in their order."""
    services = surroundings()
    count = services.config.limits.max_subscriptions
    answered: set[int] = set()
    async with session(services) as browser:
        for _ in range(count // 2):
            await browser.say(subscribe("workflow:a"), {"type": "unsubscribe", "channel": "workflow:b"})
        await trio.testing.wait_all_tasks_blocked()
        confirm(services, "workflow:a")
        for _ in range(20):
            await trio.lowlevel.checkpoint()
            for outbox in services.hub.channels[b"workflow:a"].subscribers.values():
                assert isinstance(outbox, Outbox)
                answered.add(outbox.frames)
        assert any(0 < frames < count for frames in answered)
        answers = [(await browser.hear())["type"] for _ in range(count)]
        assert answers == ["subscribed", "unsubscribed"] * (count // 2)
