"""Waiting for what nobody announces."""

from collections.abc import Awaitable, Callable

import trio

STEP = 0.05


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return when the condition holds; bring your own timeout."""
    while not await condition():  # noqa: ASYNC110  it is about other processes
        await trio.sleep(STEP)
