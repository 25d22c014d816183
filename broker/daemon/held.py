"""A service that runs beside the rest and can be ended by itself, before the nursery that it lives in."""

from collections.abc import Awaitable, Callable
from typing import Any

import trio


class Held:
    """Runs one thing that is made for `nursery.start`."""

    def __init__(self) -> None:
        self._scope = trio.CancelScope()
        self._over = trio.Event()
        self._over.set()

    async def run(
        self, serve: Callable[..., Awaitable[Any]], *, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run it until it ends, or `end` is called."""
        self._over = trio.Event()
        try:
            with self._scope:
                await serve(task_status=task_status)
        finally:
            self._over.set()

    async def end(self) -> None:
        """End it, and wait until it has cleaned up after itself."""
        self._scope.cancel()
        await self._over.wait()
