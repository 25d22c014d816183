"""Where a request carries its credential: read in this one place."""

import attrs

from broker.http.answer import refusal
from broker.http.bearer import bearer_token
from broker.http.request import Request
from protocol.codes import ErrorCode

__all__ = ["SUBPROTOCOL", "EventCredential", "event_credential", "presented_key", "selected_subprotocol"]

SUBPROTOCOL = "signalbox"
"""What the server selects when a client offers it (RFC 6455 section 1.9); a browser insists that one is selected."""

_BEARER = "bearer."


@attrs.frozen
class EventCredential:
    """What an event socket is opened with; at most one of the two is set."""

    token: str | None = attrs.field(default=None, repr=False)
    ticket: str | None = attrs.field(default=None, repr=False)

    @property
    def text(self) -> str:
        """Whichever it is, "" for neither."""
        return self.token or self.ticket or ""


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


def event_credential(request: Request, subprotocols: tuple[str, ...]) -> EventCredential:
    """Return what an event socket is opened with: the first of these that there is.

    `?token=`; the subprotocol `bearer.<token>`, which is all that a page can send besides the URL;
    `Authorization: Bearer`; `?ticket=`.
    """
    offered = (item.removeprefix(_BEARER) for item in subprotocols if item.startswith(_BEARER))
    token = request.parameter("token") or next(offered, None) or bearer_token(request)
    return EventCredential(token=token) if token else EventCredential(ticket=request.parameter("ticket"))


def selected_subprotocol(subprotocols: tuple[str, ...]) -> str | None:
    """Return what to select of a client's offers: never the one that holds its token."""
    return SUBPROTOCOL if SUBPROTOCOL in subprotocols else None
