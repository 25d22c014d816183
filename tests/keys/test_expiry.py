"""When watched keys are looked at again for their expiry."""

import attrs
import trio
from trio.testing import MockClock

from broker.keys.watches import Watches
from broker.store.key_record import KeyRecord

RECORD = KeyRecord("0" * 64, "key_1", "acme", expires_at=1000)


@attrs.define(eq=False)
class World:
    """The time, and the key as it is stored."""

    now: float = 0.0
    record: KeyRecord = RECORD

    async def read(self, _hash: str) -> KeyRecord:
        await trio.lowlevel.checkpoint()
        return self.record

    def clock(self) -> float:
        return self.now


async def test_sessions_that_come_and_go_leave_nothing_behind() -> None:
    """However often the first session of a key that expires comes and goes, the expiry is planned once."""
    world = World()
    watches = Watches(world.read, world.clock)
    for _ in range(100):
        forget = watches.add(attrs.evolve(RECORD), lambda _: None)
        forget()
    assert watches.planned == 1


async def test_an_expiry_that_was_moved(autojump_clock: MockClock) -> None:
    """A key whose expiry is put off and then brought forward ends its sessions at the time that stands in the store."""
    world = World()
    watches = Watches(world.read, world.clock)
    heard: list[KeyRecord | None] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(watches.run)
        watches.add(RECORD, heard.append)
        for expires_at in (3000, 2000):
            world.record = attrs.evolve(RECORD, expires_at=expires_at)
            watches.suspect(RECORD.hash)
            await trio.sleep(0.1)
            assert heard.pop() == world.record
        for world.now in (1000, 1999):
            await trio.sleep(1)
            assert heard == []
        world.now = 2000
        await trio.sleep(1)
        assert heard == [None]
        world.now = 3000
        await trio.sleep(1)
        assert (heard, watches.planned) == ([None], 0)
        nursery.cancel_scope.cancel()
