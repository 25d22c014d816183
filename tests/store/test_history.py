"""Event history: what was missed is told whole, or is known not to be all."""

import json

import pytest

from broker.config.model import History
from broker.store.history import HistorySettings, history_since, publish_event
from tests.conftest import Valkey
from tests.store.helpers import LAYOUT, done

CHANNEL = "workflow:a"
FRAME_HEAD = 10
"""Bytes before the payload of a frame at the most (RFC 6455 section 5.2), unmasked."""
KEPT = HistorySettings({"workflow": History(size=1000, ttl=60.0)})


def publish(valkey: Valkey, number: int) -> str:
    """Publish an event that is kept; returns its offset."""
    payload = json.dumps({"type": "tick", "channel": CHANNEL, "number": number}).encode()
    offset = done(valkey, publish_event(LAYOUT, CHANNEL, payload, KEPT)).offset
    assert offset is not None
    return offset


def test_what_was_missed(valkey: Valkey) -> None:
    """After an offset that is still there come all that followed it, in order, each with its own."""
    offsets = [publish(valkey, number) for number in range(4)]
    complete, missed = done(valkey, history_since(LAYOUT, CHANNEL, offsets[1], 1 << 20))
    assert complete
    assert [offset for offset, _ in missed] == offsets[2:]
    assert [json.loads(event)["number"] for _, event in missed] == [2, 3]
    assert [json.loads(event)["offset"] for _, event in missed] == offsets[2:]
    assert done(valkey, history_since(LAYOUT, CHANNEL, offsets[3], 1 << 20)) == (True, [])


@pytest.mark.parametrize("count", [1, 2, 300])
def test_as_much_as_there_is_room_for(valkey: Valkey, count: int) -> None:
    """The bound is what the frames have together: at it all are told, one byte below it none."""
    offsets = [publish(valkey, number) for number in range(count + 1)]
    _, missed = done(valkey, history_since(LAYOUT, CHANNEL, offsets[0], 1 << 20))
    assert [offset for offset, _ in missed] == offsets[1:]
    most = sum(len(event) + FRAME_HEAD for _, event in missed)
    assert done(valkey, history_since(LAYOUT, CHANNEL, offsets[0], most)) == (True, missed)
    assert done(valkey, history_since(LAYOUT, CHANNEL, offsets[0], most - 1)) == (False, [])


def test_what_is_no_longer_there(valkey: Valkey) -> None:
    """When the event at the offset is gone nobody knows what followed it: it is not all, and nothing is told of it."""
    offsets = [publish(valkey, number) for number in range(3)]
    valkey.client.xdel(LAYOUT.history(CHANNEL), offsets[0])
    assert done(valkey, history_since(LAYOUT, CHANNEL, offsets[0], 1 << 20)) == (False, [])
    assert done(valkey, history_since(LAYOUT, CHANNEL, "0-1", 1 << 20)) == (False, [])
    assert done(valkey, history_since(LAYOUT, "workflow:none", offsets[0], 1 << 20)) == (False, [])


@pytest.mark.parametrize("since", ["", "5", "-", "a-b", "5-", f"{2**64}-0", f"0-{2**64}", "1-1-1", "(1-1"])
def test_what_is_no_offset(valkey: Valkey, since: str) -> None:
    """What is no offset is answered without asking Redis, which would make an error or a range of it."""
    publish(valkey, 1)
    with pytest.raises(StopIteration) as end:
        next(history_since(LAYOUT, CHANNEL, since, 1 << 20))
    assert end.value.value == (False, [])
