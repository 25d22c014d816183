"""What is served where on the admin listener."""

from collections.abc import Iterator

import attrs

from broker.admin import api_keys
from broker.admin.action import Handler
from broker.admin.changes import changer
from broker.admin.publishing import publish
from broker.admin.receipts import show_receipts
from broker.http import Request, match_path, parse_path, refusal
from broker.http.paths import Pattern
from protocol.codes import ErrorCode
from protocol.states import State

__all__ = ["METRICS", "OPERATIONS", "STATUS", "Match", "find_route"]

METRICS, STATUS = "/metrics", "/status"

OPERATIONS: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/api/v1/orgs/{org}/workflows/{workflow}/kill", changer(State.KILLED)),
    ("POST", "/api/v1/orgs/{org}/workflows/{workflow}/pause", changer(State.PAUSED)),
    ("POST", "/api/v1/orgs/{org}/workflows/{workflow}/resume", changer(State.NORMAL)),
    ("GET", "/api/v1/orgs/{org}/receipts/{message}", show_receipts),
    ("POST", "/api/v1/publish", publish),
    ("GET", "/api/v1/orgs/{org}/api-keys", api_keys.show_all),
    ("POST", "/api/v1/orgs/{org}/api-keys", api_keys.create),
    ("DELETE", "/api/v1/orgs/{org}/api-keys/{key}", api_keys.revoke),
    ("POST", "/api/v1/orgs/{org}/api-keys/{key}/rotate", api_keys.rotate),
)


@attrs.frozen
class Match:
    """What a request found: one of the two pages, or an operation with what the names in its path stand for."""

    page: str = ""
    handler: Handler | None = None
    names: dict[str, str] = attrs.field(factory=dict)


def _table() -> Iterator[tuple[str, Pattern, Match]]:
    for page in (METRICS, STATUS):
        yield "GET", parse_path(page), Match(page)
    for method, path, handler in OPERATIONS:
        yield method, parse_path(path), Match(handler=handler)


_TABLE = tuple(_table())


def find_route(request: Request) -> Match:
    """Return what a request is for; HEAD is answered wherever GET is.

    Raises:
        Refused: 404 for a path that is none, 405 with Allow for another method.
    """
    allowed: list[str] = []
    for method, pattern, match in _TABLE:
        names = match_path(pattern, request.segments)
        if names is None:
            continue
        methods = ("GET", "HEAD") if method == "GET" else (method,)
        if request.method in methods:
            return attrs.evolve(match, names=names)
        allowed += methods
    if allowed:
        listed = ", ".join(allowed)
        raise refusal(405, ErrorCode.METHOD_NOT_ALLOWED, f"allowed here: {listed}", headers=(("Allow", listed),))
    raise refusal(404, ErrorCode.NOT_FOUND, "there is nothing at this path", close=request.is_upgrade)
