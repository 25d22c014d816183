"""Who may ask the admin listener for what, and who answers."""

import trio

from broker.admin.action import Action
from broker.admin.body import Body, parse_body
from broker.admin.metrics import Metrics
from broker.admin.routes import METRICS, STATUS, find_route
from broker.admin.services import AdminServices
from broker.admin.status import describe
from broker.admin.token import TokenFile
from broker.http import Answer, Conversation, Refused, Request, bearer_token, json_answer, refusal
from broker.observe import Counters, Repeated
from protocol.codes import ErrorCode

__all__ = ["Reception"]

LARGE_BODY = 65536
"""Bytes from which a body is parsed beside the event loop."""


class Reception:
    """Answers requests: metrics for everybody who can reach it, everything else for holders of a token.

    Args:
        services: what is shown and changed.
        traffic: the listener's own counters; `refused` is raised here.
    """

    def __init__(self, services: AdminServices, traffic: Counters) -> None:
        self._services = services
        self._refused = traffic.refused
        self._metrics = Metrics(services, traffic.refused)
        self._say = Repeated(services.log)
        self._tokens = TokenFile(path=None, say=self._say)

    @property
    def is_open(self) -> bool:
        """Whether there is a token that opens the operator API."""
        self._tokens.path = self._services.config.admin.token_file
        return self._tokens.is_open

    async def answer(self, conversation: Conversation, first_deadline: float, remote: str) -> Answer:
        """Read the next request and return its answer.

        Args:
            conversation: with the client.
            first_deadline: see `Conversation.next_request`.
            remote: the client's address, for the log.

        Raises:
            ConnectionOver, WireBroken: the client is gone.
        """
        try:
            return await self._answer(await conversation.next_request(first_deadline), conversation, remote)
        except Refused as refused:
            self._refused[refused.answer.code] += 1
            return refused.answer

    async def _answer(self, request: Request, conversation: Conversation, remote: str) -> Answer:
        match = find_route(request)
        if match.page == METRICS:
            page, content_type = await self._metrics.render(request.header(b"accept") or "")
            return Answer(200, page, content_type=content_type)
        actor = self._admitted(request, remote)
        raw = await conversation.body() if request.has_body else b""
        if match.page == STATUS:
            return json_answer(200, await describe(self._services))
        assert match.handler is not None
        action = Action(self._services, actor, match.names, dict(request.query), await _parsed(raw))
        return await match.handler(action)

    def _admitted(self, request: Request, remote: str) -> str:
        """Return the actor that a request's token stands for.

        Raises:
            Refused: 403 without a token file, 401 for a token that is missing or wrong.
        """
        if not self.is_open:
            raise refusal(
                403,
                ErrorCode.OPERATOR_API_OFF,
                "admin.token_file is not set, or cannot be used, as the log then says: only /metrics is open",
            )
        token = bearer_token(request)
        if token is None:
            raise refusal(401, ErrorCode.TOKEN_MISSING, "a token is needed: Authorization: Bearer <token>")
        name = self._tokens.holder(token)
        if name is None:
            self._say.warning("token", "an operator's token is wrong", remote=remote)
            raise refusal(401, ErrorCode.TOKEN_WRONG, "the token is wrong")
        return f"api:{name}"


async def _parsed(raw: bytes) -> Body:
    if len(raw) < LARGE_BODY:
        return parse_body(raw)
    return await trio.to_thread.run_sync(parse_body, raw)
