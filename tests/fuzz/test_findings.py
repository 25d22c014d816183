"""Inputs that once did what they must not."""

import pytest
import trio

from tests.fuzz import frames, replies

REPLIES = {
    "a message without channel and payload": b">1\r\n$7\r\nmessage\r\n",
    "a message whose payload is a list": b">3\r\n$7\r\nmessage\r\n$3\r\none\r\n*1\r\n*1\r\n$5\r\nhello\r\n",
    "a message whose channel is a number": b">3\r\n$7\r\nmessage\r\n:1\r\n$5\r\nhello\r\n",
    "a push of more elements than memory holds": b">3700000000\r\n$3\r\n123\r\n",
}


@pytest.mark.parametrize("case", REPLIES)
async def test_nonsense_from_redis(case: str, autojump_clock: trio.testing.MockClock) -> None:
    """What is no message ends the connection, which is made anew; whoever takes messages never sees it."""
    outcome = await replies.run(replies.CONFIRM + REPLIES[case])
    assert isinstance(outcome, tuple)
    assert outcome[0] == 0
    assert "make no sense" in outcome[2]


async def test_time_that_is_infinite(autojump_clock: trio.testing.MockClock) -> None:
    """A clock that tells no time is replaced by ours; the confirmations behind it count."""
    told = replies.CONFIRM.replace(b"$10\r\n1700000000\r\n", b",inf\r\n")
    outcome = await replies.run(told + replies.MESSAGE)
    assert isinstance(outcome, tuple)
    assert outcome[0] == 1


def test_length_that_is_too_long() -> None:
    """A frame whose length is written too long is refused by the library first, and by the scanner just after."""
    frames.run(b"\x00\x81\xfe\x00}\x00\x05")
