"""Writing down who is here."""

import pytest
import trio
import trio.testing

from broker.link.errors import LinkDown
from broker.store.brokers import HEARTBEAT
from broker.store.presence import PUT_PRESENCE
from tests.control.making import connection, member_on, unconnected_plane


async def test_a_change_during_a_write_is_written_too(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """A session that falls silent in the very moment in which it is written down as well is not left like that."""
    written: list[bool] = []

    async def call(*words: object) -> object:
        if PUT_PRESENCE.sha in words:
            written.append(b'"silent":true' in bytes(words[-1]))  # type: ignore[call-overload]
            if len(written) == 1:
                member.silent = True
                services.presence.put(member)
        await trio.lowlevel.checkpoint()
        return 1

    services = unconnected_plane(call).services
    with connection() as (wire, _):
        member = member_on(wire, services)
        services.presence.put(member)
        nursery.start_soon(services.presence.run)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert written == [False, True]


@pytest.mark.parametrize(("sessions", "writes"), [(500, [500]), (501, [500, 1])])
async def test_many_at_once(
    sessions: int, writes: list[int], autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """Those who come together are written together, but no more than 500 in one step: the store stands still for it."""
    steps: list[int] = []

    async def call(*words: object) -> object:
        await trio.lowlevel.checkpoint()
        if PUT_PRESENCE.sha in words:
            _, _, _, _, _, *rest = words  # EVALSHA, the script, 1, its key, how long to live
            steps.append(len(rest) // 2)
        return 1

    services = unconnected_plane(call).services
    with connection() as (wire, _):
        for _ in range(sessions):
            services.presence.put(member_on(wire, services))
        nursery.start_soon(services.presence.run)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert steps == writes


async def test_a_heartbeat_that_comes_back_after_the_last_session_has_gone(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """A store that has forgotten an organization answers late, when there is nothing left to be written again."""
    beats: list[float] = []

    async def call(*words: object) -> object:
        if words[0] == "PEXPIRE":
            beats.append(trio.current_time())
            await trio.sleep(2)
            return 0
        await trio.lowlevel.checkpoint()
        return 1

    services = unconnected_plane(call).services
    with connection() as (wire, _):
        member = member_on(wire, services)
        services.presence.put(member)
        nursery.start_soon(services.presence.run)
        await trio.sleep(1)
        assert beats
        services.presence.remove(member)
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    assert len(beats) == 1


async def test_a_store_that_is_away_for_a_moment(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    """Who came and who went while nothing could be written is written when that can be, and then nothing is kept."""
    written: list[tuple[object, ...]] = []
    away = True

    async def call(*words: object) -> object:
        await trio.lowlevel.checkpoint()
        if away:
            raise LinkDown("away")
        written.append(words)
        return 1

    services = unconnected_plane(call).services
    with connection() as (wire, _):
        stays, goes = (member_on(wire, services) for _ in range(2))
        services.presence.put(stays)
        services.presence.put(goes)
        nursery.start_soon(services.presence.run)
        await trio.sleep(1)
        services.presence.remove(goes)
        await trio.sleep(3)
        assert written == []
        away = False
        services.presence.link_up()
        await trio.sleep(0.5)
        [removed] = [words for words in written if words[0] == "HDEL"]
        [put] = [words for words in written if PUT_PRESENCE.sha in words]
        assert (removed[2:], put[5]) == ((goes.peer.id,), stays.peer.id)
        services.presence.remove(stays)
        await trio.sleep(1)
        written.clear()
        await trio.sleep(20)
        await services.presence.sign_off()
        nursery.cancel_scope.cancel()
    assert {words[1 if words[0] == "EVALSHA" else 0] for words in written} == {HEARTBEAT.sha, "HDEL"}


async def test_farewell_to_those_who_are_handed_over() -> None:
    """They are left in, with their broker, for the time in which no process has them; others are taken out."""
    written: list[tuple[object, ...]] = []

    async def call(*words: object) -> object:
        await trio.lowlevel.checkpoint()
        written.append(words)
        return 1

    services = unconnected_plane(call).services
    with connection() as (wire, _):
        stays, goes = (member_on(wire, services) for _ in range(2))
        services.presence.put(stays)
        services.presence.put(goes)
        stays.peer.hand_over()
        await services.presence.sign_off()
    removed, put = written
    assert removed == ("HDEL", services.layout.presence("acme", "b1"), goes.peer.id)
    assert (PUT_PRESENCE.sha in put, put[5:][::2]) == (True, (stays.peer.id,))


@pytest.mark.parametrize("first_answer", [None, LinkDown("away")])
async def test_farewell(
    first_answer: LinkDown | None, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """At its end a broker takes itself and its sessions out; a store that is away keeps it from nothing."""
    written: list[tuple[object, ...]] = []

    async def call(*words: object) -> object:
        await trio.lowlevel.checkpoint()
        written.append(words)
        if first_answer is not None:
            raise first_answer
        return 1

    services = unconnected_plane(call).services
    with connection() as (wire, _):
        services.presence.put(member_on(wire, services))
        await services.presence.sign_off()
    layout = services.layout
    expected: list[tuple[object, ...]] = [("HDEL", layout.brokers(), "b1"), ("DEL", layout.presence("acme", "b1"))]
    assert written == expected[: 2 if first_answer is None else 1]
