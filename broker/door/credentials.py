"""Where a request carries its API key: read in this one place."""

from broker.http.answer import refusal
from broker.http.bearer import bearer_token
from broker.http.request import Request
from protocol.codes import ErrorCode

__all__ = ["event_token", "presented_key"]


def presented_key(request: Request, named: str | None = None) -> str:
    """Return the API key of a control or REST request: X-API-Key, or Authorization, or several if they agree.

    Args:
        request: its headers are looked at.
        named: a key that was named elsewhere in the request.

    Raises:
        Refused: 401 when it is missing or they disagree.
    """
    found = {key for key in (request.header(b"x-api-key"), bearer_token(request), named) if key}
    if len(found) > 1:
        raise refusal(401, ErrorCode.API_KEY_MISMATCH, "the request names different API keys")
    if not found:
        raise refusal(401, ErrorCode.API_KEY_MISSING, "an API key is needed: X-API-Key, or Authorization: Bearer")
    return found.pop()


def event_token(request: Request) -> str | None:
    """Return the token of an event socket: `?token=`, else `Authorization: Bearer`; None when there is none."""
    return request.parameter("token") or bearer_token(request)
