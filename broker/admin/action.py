"""One request to the operator API, as those who answer it see it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import attrs
import trio
from redis.exceptions import RedisError

from broker.admin.body import Body, checked_id
from broker.admin.services import AdminServices
from broker.http import Answer, Refused, refusal
from broker.link.errors import LinkDown
from broker.store.drive import run
from broker.store.errors import DamagedKey, DamagedWorkflow, SealError
from broker.store.request import Operation
from protocol.codes import ErrorCode

__all__ = ["Action", "Handler"]

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds that a request may wait for one answer of the store."""


@attrs.frozen(eq=False)
class Action:
    """What an operator wants.

    Attributes:
        services: the surroundings.
        actor: who it is, as it is recorded: "api:" and the name of the token.
        names: what the names in the path stand for.
        query: the fields of the query.
        body: the fields of the body.
    """

    services: AdminServices
    actor: str
    names: Mapping[str, str]
    query: Mapping[str, str]
    body: Body

    def name(self, what: str) -> str:
        """Return an id from the path; raises Refused."""
        return checked_id(self.names[what], what)

    async def store(self, operation: Operation[T], advice: str = "try again") -> T:
        """Carry an operation of the store out.

        Args:
            operation: what to do.
            advice: what to do if it cannot be told whether it was done.

        Raises:
            Refused: 503 when the store does not answer, or refuses, or holds what nobody can read.
        """
        try:
            with trio.fail_after(PATIENCE):
                return await run(self.services.call, operation)
        except (LinkDown, trio.TooSlowError):
            raise self._unavailable("does not answer", advice) from None
        except RedisError as error:
            self.services.log.error("the store refuses an operator's request", error=error)
            raise self._unavailable(f"refuses: {error}"[:200], advice) from None
        except (DamagedKey, DamagedWorkflow, SealError) as error:
            raise refusal(503, ErrorCode.UNAVAILABLE, str(error)) from None

    def note(self, what: str, **fields: object) -> None:
        """Write down in the log what was done, and by whom."""
        self.services.log.info("operator", action=what, actor=self.actor, **fields)

    def _unavailable(self, what: str, advice: str) -> Refused:
        return refusal(503, ErrorCode.UNAVAILABLE, f"the store {what}; {advice}", retry_after=2)


Handler = Callable[[Action], Awaitable[Answer]]
"""Answers a request; raises Refused."""
