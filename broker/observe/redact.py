"""Taking secrets out of whatever is about to be shown."""

import re
from functools import lru_cache
from typing import Any

from broker.observe.escape import escape_text

HIDDEN = "[redacted]"

_SECRET_FIELDS = frozenset(
    (
        "token",
        "secret",
        "secret_key",
        "previous_secret",
        "api_key",
        "x-api-key",
        "ticket",
        "signature",
        "x-signature",
        "password",
        "authorization",
    )
)
_API_KEY = re.compile(r"(nr_live_|tkt_)[A-Za-z0-9_-]+")
_QUERY = re.compile(r"([?&;](?:token|ticket|api_key|secret_key|signature)=)[^&;\s\"'#]+", re.IGNORECASE)
_BEARER = re.compile(r"((?:bearer[ .]))[A-Za-z0-9._~+/=-]+", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(\w://[^/\s:@]*:)[^/\s]+@")


def redact_text(text: str) -> str:
    """Return `text` without API keys, tickets, bearer tokens, secret query parameters and passwords in URLs."""
    if "nr_live_" in text or "tkt_" in text:
        text = _API_KEY.sub(rf"\1{HIDDEN}", text)
    if "=" in text:
        text = _QUERY.sub(rf"\1{HIDDEN}", text)
    if "@" in text:
        text = _URL_PASSWORD.sub(rf"\1{HIDDEN}@", text)
    if "earer" in text:
        text = _BEARER.sub(rf"\1{HIDDEN}", text)
    return text


def redact(value: Any, depth: int = 4) -> Any:
    """Return `value` (text, or containers of it) escaped, every secret hidden; other types are returned as they are."""
    if isinstance(value, str):
        return redact_text(escape_text(value))
    if isinstance(value, bytes):
        return redact_text(escape_text(value.decode("utf-8", "backslashreplace")))
    if depth and isinstance(value, dict):
        return {
            redact(key, 0): HIDDEN if is_secret_field(key) and item else redact(item, depth - 1)
            for key, item in value.items()
        }
    if depth and isinstance(value, list | tuple):
        return [redact(item, depth - 1) for item in value]
    if isinstance(value, BaseException):
        return redact_text(escape_text(f"{type(value).__name__}: {value}"))
    return value


@lru_cache(maxsize=1024)
def is_secret_field(name: object) -> bool:
    """Tell whether a field of this name holds a secret, whatever its value looks like."""
    return isinstance(name, str) and name.lower() in _SECRET_FIELDS
