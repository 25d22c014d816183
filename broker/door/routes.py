"""What is served where: the table of paths on the public port."""

from enum import Enum, auto

import attrs

from broker.http.answer import refusal
from broker.http.paths import Pattern, has_names, match_path, parse_path
from broker.http.request import Request
from protocol.codes import ErrorCode

__all__ = ["ROUTES", "UPGRADE", "Match", "Route", "Target", "find_route"]


class Target(Enum):
    """What a route leads to."""

    LIVE = auto()
    READY = auto()
    CONTROL_SOCKET = auto()
    EVENT_SOCKET = auto()
    AUTH_VERIFY = auto()
    WORKFLOW_STATUS = auto()
    ORG_STATUS = auto()
    TICKETS = auto()


UPGRADE = (("Upgrade", "websocket"), ("Connection", "Upgrade"))
"""The headers of a 426 (RFC 9110 section 15.5.22)."""

SOCKETS = frozenset({Target.CONTROL_SOCKET, Target.EVENT_SOCKET})


@attrs.frozen
class Route:
    """One line of the table.

    Attributes:
        method, pattern, target: what leads where.
        is_socket: whether it is a WebSocket's.
        methods: the methods allowed: HEAD wherever GET is, but on WebSockets.
    """

    method: str
    pattern: Pattern
    target: Target
    is_socket: bool
    methods: tuple[str, ...]


@attrs.frozen
class Match:
    """A route that a request found, with what its braces stand for."""

    target: Target
    names: dict[str, str]
    is_socket: bool


def _route(method: str, path: str, target: Target) -> Route:
    is_socket = target in SOCKETS
    methods = ("GET", "HEAD") if method == "GET" and not is_socket else (method,)
    return Route(method, parse_path(path), target, is_socket, methods)


ROUTES = (
    _route("GET", "/health/live", Target.LIVE),
    _route("GET", "/healthz", Target.LIVE),
    _route("GET", "/health", Target.READY),
    _route("GET", "/health/ready", Target.READY),
    _route("GET", "/ws/control/{org_id}", Target.CONTROL_SOCKET),
    _route("GET", "/ws/", Target.EVENT_SOCKET),
    _route("GET", "/ws", Target.EVENT_SOCKET),
    _route("POST", "/api/v1/auth/verify", Target.AUTH_VERIFY),
    _route("GET", "/api/v1/status/{workflow_id}", Target.WORKFLOW_STATUS),
    _route("GET", "/api/v1/orgs/{org_id}/status", Target.ORG_STATUS),
    _route("POST", "/api/v1/tickets", Target.TICKETS),
)


_ROUTES_BY_PATH = {route.pattern: route for route in ROUTES if not has_names(route.pattern)}
_ROUTES_WITH_NAMES = tuple(route for route in ROUTES if has_names(route.pattern))


def find_route(request: Request) -> Match:
    """Return what a request is for.

    Raises:
        Refused: 404 for a path that is none, or an upgrade where there is no WebSocket; 405 with Allow for another
            method; 426 with Upgrade for a WebSocket's path without an upgrade.
    """
    exact = _ROUTES_BY_PATH.get(request.segments)
    for route in _ROUTES_WITH_NAMES if exact is None else (exact,):
        names = {} if route is exact else match_path(route.pattern, request.segments)
        if names is None:
            continue
        if request.method not in route.methods:
            allowed = ", ".join(route.methods)
            raise refusal(405, ErrorCode.METHOD_NOT_ALLOWED, f"allowed here: {allowed}", headers=(("Allow", allowed),))
        if request.is_upgrade and not route.is_socket:
            raise refusal(404, ErrorCode.NOT_FOUND, "there is no WebSocket at this path", close=True)
        if route.is_socket and not request.is_upgrade:
            message = "this path is a WebSocket: it needs an upgrade by HTTP/1.1"
            raise refusal(426, ErrorCode.UPGRADE_REQUIRED, message, headers=UPGRADE)
        return Match(route.target, names, route.is_socket)
    raise refusal(404, ErrorCode.NOT_FOUND, "there is nothing at this path", close=request.is_upgrade)
