"""Answers to plain HTTP requests: health, and the REST companions of the control socket."""

from collections.abc import Mapping

import orjson
import trio
from redis.exceptions import RedisError

from broker.door.address import ClientAddress
from broker.door.control_door import identify, unavailable
from broker.door.health import Readiness, live_answer, ready_answer
from broker.door.routes import Match, Target
from broker.door.state import DoorState
from broker.http.answer import Answer, json_answer, refusal
from broker.http.conversation import Conversation
from broker.http.request import Request
from broker.keys.admission import Admission
from broker.keys.errors import KeysUnavailable
from broker.store.key_record import KeyRecord
from protocol.codes import ErrorCode
from protocol.errors import ProtocolError
from protocol.ids import check_id

STORE_PATIENCE = 5.0
"""Seconds that a REST answer may wait for the store, once it is known who asks."""

__all__ = ["respond"]


async def respond(
    request: Request, match: Match, address: ClientAddress, conversation: Conversation, state: DoorState
) -> Answer:
    """Return the answer to a request that a route was found for.

    Raises:
        Refused: every other answer.
    """
    body = await conversation.body() if request.has_body else b""
    if match.target is Target.LIVE:
        return live_answer()
    if match.target is Target.READY:
        return ready_answer(_readiness(state))
    named = _named_key(body) if match.target is Target.AUTH_VERIFY else None
    try:
        _, admission = await identify(request, address, state, body, named=named)
        with trio.move_on_after(STORE_PATIENCE):
            return await _rest(match, admission, state)
    except (KeysUnavailable, RedisError):
        pass
    raise unavailable()


def _readiness(state: DoorState) -> Readiness:
    readiness = state.services.ready()
    if state.draining and "draining" not in readiness.problems:
        return Readiness(("draining", *readiness.problems), readiness.warnings)
    return readiness


async def _rest(match: Match, admission: Admission, state: DoorState) -> Answer:
    rest = state.services.rest
    organization_id = admission.record.organization_id
    match match.target:
        case Target.AUTH_VERIFY:
            return _answer(rest.auth_verify(admission))
        case Target.TICKETS:
            return await _make_ticket(admission.record, state)
        case Target.WORKFLOW_STATUS:
            workflow_id = _checked_id(match.names["workflow_id"], "workflow_id")
            return _answer(await rest.workflow_status(organization_id, workflow_id))
        case _:
            if _checked_id(match.names["org_id"], "org_id") != organization_id:
                raise refusal(403, ErrorCode.WRONG_ORGANIZATION, "this API key belongs to another organization")
            return _answer(await rest.org_status(organization_id))


async def _make_ticket(record: KeyRecord, state: DoorState) -> Answer:
    """Return a ticket for one event socket; a page gets it from its own server, which has the key."""
    seconds = state.ticket_rates.wait(record.key_id, trio.current_time())
    if seconds:
        raise refusal(429, ErrorCode.RATE_LIMITED, "this API key asks for too many tickets", retry_after=seconds)
    tickets = state.services.tickets
    ticket = await tickets.make(record)
    state.services.counters.tickets += 1
    return json_answer(200, {"ticket": ticket, "expires_in": tickets.lifetime})


def _named_key(body: bytes) -> str:
    """Return the API key that the body of a verification names."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        fields = None
    api_key = fields.get("api_key") if isinstance(fields, dict) else None
    if not isinstance(api_key, str) or not api_key:
        raise refusal(400, ErrorCode.BAD_REQUEST, 'the body must be {"api_key": "..."}')
    return api_key


def _checked_id(value: str, what: str) -> str:
    try:
        return check_id(value, what)
    except ProtocolError as error:
        raise refusal(404, ErrorCode.NOT_FOUND, error.message) from None


def _answer(result: tuple[int, Mapping[str, object]]) -> Answer:
    return json_answer(*result)
