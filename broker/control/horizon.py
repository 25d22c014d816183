"""Since when what the subscription link brings can have been published."""

from typing import Any

import trio
from redis.exceptions import RedisError

from broker.link.errors import LinkDown
from broker.link.subscriptions import SubscriptionLink

ASK_SECONDS = 1.0
"""Between two questions for the server's time: by so much at the most does it lie behind on a link that is read."""


class Horizon:
    """A time by the server's clock that no message which the link is about to bring was published before.

    A connection keeps its order: what comes behind an answer to TIME was published after that time, however long the
    message then lay in a buffer because this process stood still, or was busy. The clock at the moment of reading would
    say nothing about that.
    """

    def __init__(self, link: SubscriptionLink) -> None:
        self._link = link
        self._told = (0, 0)  # the generation of the connection, and milliseconds

    @property
    def ms(self) -> int | None:
        """The time in unix milliseconds; None before the link has subscribed to anything."""
        generation, told = self._told
        return (told if generation == self._link.generation else self._link.subscribed_at) or None

    async def run(self) -> None:
        """Ask for the time now and then, until cancelled."""
        while True:
            generation, asked = self._link.generation, self._link.server_ms()
            try:
                answer: Any = await self._link.call("TIME")
            except LinkDown:
                pass  # the next connection's subscription tells the time
            except RedisError:
                self._told = generation, asked  # this user may not ask, but the refusal came in order, too
            else:
                self._told = generation, int(answer[0]) * 1000 + int(answer[1]) // 1000
            await trio.sleep(ASK_SECONDS)
