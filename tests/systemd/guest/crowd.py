"""How a restart feels to thousands of agents at once: python -m tests.systemd.guest.crowd [SESSIONS]."""

import re
import statistics
import sys

import attrs
import trio

from tests.support.ws_client import Closed, WsClient
from tests.systemd.guest.machine import (
    ADDRESS,
    BASE_CONFIG,
    SERVICE,
    SOCKET,
    add_key,
    configure,
    fresh,
    http_get,
    journal,
    signalbox,
    systemctl,
    until,
)

CONNECTING_AT_ONCE = 64


@attrs.define(eq=False)
class Crowd:
    """Many control sessions, and when each was told what.

    Attributes:
        snapshots: when each session got its latest snapshot.
        kills: when each was killed.
        lost: how sessions ended that should not have.
    """

    size: int
    snapshots: dict[int, float] = attrs.field(factory=dict)
    kills: dict[int, float] = attrs.field(factory=dict)
    lost: list[str] = attrs.field(factory=list)

    async def connect(self, api_key: str, nursery: trio.Nursery) -> None:
        """Open all sessions."""
        limiter = trio.CapacityLimiter(CONNECTING_AT_ONCE)

        async def one(number: int) -> None:
            async with limiter:
                client = await WsClient.connect(ADDRESS, "/ws/control/acme", {"X-API-Key": api_key}, patience=600)
            nursery.start_soon(self._hear, number, client)

        async with trio.open_nursery() as connecting:
            for number in range(self.size):
                connecting.start_soon(one, number)
        await until("everybody has a snapshot", lambda: len(self.snapshots) == self.size, 120)

    async def _hear(self, number: int, client: WsClient) -> None:
        try:
            while True:
                message = await client.receive_json()
                if message["type"] == "initial_state":
                    self.snapshots[number] = trio.current_time()
                elif message["type"] == "state_change":
                    self.kills[number] = trio.current_time()
                    await client.send_json(
                        type="ack", message_id=message["message_id"], received_at=message["updated_at"]
                    )
        except (Closed, trio.BrokenResourceError) as error:
            self.lost.append(repr(error))


async def measure(size: int) -> int:
    """Restart under `size` sessions, then kill; prints what it took, and returns the exit status."""
    await fresh()
    await configure(BASE_CONFIG.replace("ping_interval = 1", "ping_interval = 20"))
    await systemctl("start", SOCKET, SERVICE)
    key = await add_key()
    crowd = Crowd(size)
    answers: list[float] = []
    async with trio.open_nursery() as sessions:
        began = trio.current_time()
        await crowd.connect(key["api_key"], sessions)
        print(f"{size} sessions open after {trio.current_time() - began:.1f} s", flush=True)
        await trio.sleep(2)
        crowd.snapshots.clear()
        began = trio.current_time()
        async with trio.open_nursery() as probing:
            probing.start_soon(_probe, answers)
            await systemctl("restart", SERVICE)
            restarted = trio.current_time() - began
            await until("everybody has a fresh snapshot", lambda: len(crowd.snapshots) + len(crowd.lost) >= size, 120)
            probing.cancel_scope.cancel()
        waits = sorted(at - began for at in crowd.snapshots.values())
        print(f"systemctl restart took {restarted:.2f} s; the longest that a newcomer waited was {max(answers):.2f} s")
        print(
            f"fresh snapshot after the restart was asked for: first {waits[0]:.2f} s, median "
            f"{statistics.median(waits):.2f} s, last {waits[-1]:.2f} s"
        )
        began = trio.current_time()
        await signalbox("kill", "acme", "wf", "--wait", "60")
        await until("everybody is killed", lambda: len(crowd.kills) + len(crowd.lost) >= size, 60)
        last = max(crowd.kills.values()) - min(crowd.kills.values())
        print(f"kill on the same sockets: {len(crowd.kills)} of {size}, from the first to the last {last:.2f} s")
        print(f"sessions lost: {len(crowd.lost)} {crowd.lost[:3]}")
        sessions.cancel_scope.cancel()
    for line in await journal():
        if found := re.search(r'"event": "(sessions [^"]*|stopping|stopped|listening)".*"timestamp": "([^"]*)"', line):
            print(f"  {found[2]}  {found[1]}")
    return 0 if not crowd.lost and len(crowd.kills) == size else 1


async def _probe(answers: list[float]) -> None:
    """Ask the broker for its health again and again, each time as a newcomer."""
    while True:
        began = trio.current_time()
        await http_get("/health/live")
        answers.append(trio.current_time() - began)
        await trio.sleep(0.01)


if __name__ == "__main__":
    sys.exit(trio.run(measure, int(sys.argv[1]) if len(sys.argv) > 1 else 5000))
