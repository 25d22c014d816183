"""Error codes, and WebSocket close codes with what a client should do about each.

Error codes travel in ``{"type": "error", "code": …}`` messages, in the JSON bodies of refused requests, and in logs and
metrics. Close codes are those of RFC 6455 section 7.4.1; 1012 and 1013, which are in the registry of its section 11.7
alone; and, from 4400, our own (section 7.4.2 leaves 4000-4999 to applications).
"""

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from types import MappingProxyType

import attrs


class ErrorCode(StrEnum):
    """Why something was refused. The values are stable: clients and dashboards may depend on them."""

    # What a message or a publication can be refused for.
    INVALID_JSON = "invalid_json"
    INVALID_MESSAGE = "invalid_message"
    INVALID_ID = "invalid_id"
    INVALID_CHANNEL = "invalid_channel"
    UNKNOWN_TYPE = "unknown_type"
    RESERVED_TYPE = "reserved_type"
    CHANNEL_MISMATCH = "channel_mismatch"
    ORGANIZATION_MISMATCH = "organization_mismatch"
    FORBIDDEN_CHANNEL = "forbidden_channel"
    TOO_MANY_SUBSCRIPTIONS = "too_many_subscriptions"
    TOO_BIG = "too_big"
    BINARY_MESSAGE = "binary_message"
    INVALID_FRAME = "invalid_frame"
    RATE_LIMITED = "rate_limited"
    UNKNOWN_MESSAGE_ID = "unknown_message_id"
    TERMINAL_STATE = "terminal_state"
    STALE_VERSION = "stale_version"

    # What a signature can be refused for.
    SIGNATURE_MISSING = "signature_missing"
    SIGNATURE_MALFORMED = "signature_malformed"
    SIGNATURE_STALE = "signature_stale"
    SIGNATURE_WRONG = "signature_wrong"

    # What a request can be refused for.
    API_KEY_MISSING = "api_key_missing"
    API_KEY_UNKNOWN = "api_key_unknown"
    API_KEY_REVOKED = "api_key_revoked"
    API_KEY_EXPIRED = "api_key_expired"
    API_KEY_MISMATCH = "api_key_mismatch"
    WRONG_ORGANIZATION = "wrong_organization"
    OPERATOR_API_OFF = "operator_api_off"
    TOKEN_MISSING = "token_missing"  # noqa: S105  the name of a fault
    TOKEN_WRONG = "token_wrong"  # noqa: S105  another
    ORIGIN_NOT_ALLOWED = "origin_not_allowed"
    BAD_REQUEST = "bad_request"
    BAD_UPGRADE = "bad_upgrade"
    UPGRADE_REQUIRED = "upgrade_required"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    REQUEST_TIMEOUT = "request_timeout"
    HEAD_TOO_LARGE = "head_too_large"
    BODY_TOO_LARGE = "body_too_large"
    TOO_MANY_REQUESTS = "too_many_requests"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    UNAVAILABLE = "unavailable"


class CloseCode(IntEnum):
    """Why a WebSocket was closed, as the close frame says it."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    INVALID_DATA = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    RESTARTING = 1012
    OVERLOADED = 1013
    BAD_MESSAGES = 4400
    KEY_REVOKED = 4401
    HEARTBEAT_MISSED = 4408
    TOO_MANY_MESSAGES = 4429


@attrs.frozen
class Closing:
    """What a close code means, and whether the client should connect again (with back-off) or not."""

    meaning: str
    reconnect: bool


CLOSINGS: Mapping[CloseCode, Closing] = MappingProxyType(
    {
        CloseCode.NORMAL: Closing("The session is over and nothing is wrong.", reconnect=False),
        CloseCode.GOING_AWAY: Closing("This server goes away; another may answer.", reconnect=True),
        CloseCode.PROTOCOL_ERROR: Closing("The client broke RFC 6455; it would break it again.", reconnect=False),
        CloseCode.INVALID_DATA: Closing("A text message was not UTF-8.", reconnect=False),
        CloseCode.POLICY: Closing("Not allowed: the token is missing or invalid.", reconnect=False),
        CloseCode.TOO_BIG: Closing("A message was larger than the limit.", reconnect=False),
        CloseCode.INTERNAL: Closing("Our fault; the log says why.", reconnect=True),
        CloseCode.RESTARTING: Closing("The broker restarts and will be back in seconds.", reconnect=True),
        CloseCode.OVERLOADED: Closing("The client read too slowly, or the broker has too much to do.", reconnect=True),
        CloseCode.BAD_MESSAGES: Closing("Too many messages could not be understood.", reconnect=False),
        CloseCode.KEY_REVOKED: Closing("The API key was revoked or has expired.", reconnect=False),
        CloseCode.HEARTBEAT_MISSED: Closing("No pong came in time.", reconnect=True),
        CloseCode.TOO_MANY_MESSAGES: Closing("The client sent messages above its rate for too long.", reconnect=True),
    }
)
