"""What a room knows between the moment in which its link is up again and the one in which it is heard again."""

from broker.control.room import Room
from tests.conftest import Valkey
from tests.control.broker import ORG, add_key, running_broker
from tests.control.clients import eventually


async def test_a_room_is_not_current_before_its_channel_is_heard_again(own_valkey: Valkey) -> None:
    """Else those who poll just then would be told what was so before the break."""
    api_key, _ = add_key(own_valkey)
    seen: list[tuple[bool, Room | None]] = []
    async with running_broker(own_valkey) as broker:
        rooms = broker.plane.services.rooms
        link = broker.plane.feed._link
        link._on_up = lambda: seen.append((link.state.up, rooms.current(ORG)))
        async with await broker.connect(api_key):
            await eventually(lambda: rooms.current(ORG))
            link.leave("for this test")
            await eventually(lambda: seen and rooms.current(ORG))
    assert seen == [(True, None)]
