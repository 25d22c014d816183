"""Asking a client whether it is there. One that does not answer is kept: it may be the agent that must be stopped."""

import random

import trio

from broker.control.member import Member
from broker.control.services import ControlServices
from broker.wire import LOOK_SECONDS, Transmission
from protocol.codes import CloseCode
from protocol.frames import ping_frame

_PING = ping_frame(b"signalbox")


async def run_heartbeat(member: Member, services: ControlServices) -> None:
    """Ping a client (RFC 6455 section 5.5.2) and notice when it falls silent; the body of a session's heartbeat task.

    More than two intervals without a byte from it mark it silent, which is looked at once in each; more than
    `control.silent_timeout` seconds end the session. The kernel ends it sooner if nothing is acknowledged any more.
    """
    settings = services.config.control
    interval = settings.ping_interval
    transmission = Transmission(member.peer.wire, settings.silent_timeout)
    transmission.look()
    await _rest(interval * random.random(), transmission)  # sessions that came together do not ping together
    while True:
        if member.peer.pending_bytes == 0:
            member.peer.send(_PING)
        await _rest(interval, transmission)
        quiet = trio.current_time() - member.peer.last_heard
        if quiet > settings.silent_timeout:
            member.peer.close_soon(CloseCode.HEARTBEAT_MISSED, "silent for too long")
            return
        _note_silence(member, services, quiet > 2 * interval)


async def _rest(seconds: float, transmission: Transmission) -> None:
    until = trio.current_time() + seconds
    while (left := until - trio.current_time()) > 0:
        await trio.sleep(min(left, LOOK_SECONDS))
        transmission.look()


def _note_silence(member: Member, services: ControlServices, silent: bool) -> None:
    if silent == member.silent:
        return
    member.silent = silent
    services.counters.control_silent += 1 if silent else -1
    if silent:
        services.counters.heartbeats_missed += 1
    services.presence.put(member)
    services.log.warning(
        "client is silent, and kept" if silent else "client is back",
        connection=member.peer.id,
        org=member.organization_id,
        key_id=member.record.key_id,
    )
