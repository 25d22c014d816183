"""An HTTP request as it is understood here: what h11 parsed, checked and taken apart."""

import re
from urllib.parse import parse_qsl, unquote

import attrs

from broker.http.answer import Refused, refusal
from protocol.codes import ErrorCode

__all__ = ["Request", "parse_request"]

MAX_QUERY_FIELDS = 32
"""More fields than this in a query are refused."""

_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]*")  # RFC 3986 section 3.2.2, with room for a port
_TARGET = re.compile(rb"[\x21\x22\x24-\x7e]+")  # visible ASCII but "#": a fragment is never sent
_ABSOLUTE = re.compile(rb"(?i:https?)://[^/?]*")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


@attrs.frozen
class Request:
    """One request head.

    Attributes:
        method: upper case, as sent.
        segments: the path between its slashes, percent-decoded each for itself: "/ws/control/a%2Fb" is
            ("ws", "control", "a/b"); a slash at the end gives an empty last segment.
        query: name and decoded value, in order.
        headers: names in lower case, values stripped, as bytes.
        version: of HTTP, such as b"1.1".
        is_upgrade: whether the client asks for a WebSocket (RFC 6455 section 4.1): an Upgrade header names it, which
            counts for nothing before HTTP/1.1 (RFC 9110 section 7.8).
    """

    method: str
    segments: tuple[str, ...]
    query: tuple[tuple[str, str], ...]
    headers: tuple[tuple[bytes, bytes], ...]
    version: bytes = b"1.1"
    is_upgrade: bool = attrs.field(init=False)

    @is_upgrade.default
    def _names_websocket(self) -> bool:
        if self.version < b"1.1":
            return False
        for name, value in self.headers:
            if name == b"upgrade" and b"websocket" in [token.strip() for token in value.lower().split(b",")]:
                return True
        return False

    def header(self, name: bytes) -> str | None:
        """Return the only value of a header (`name` in lower case), None when it is absent.

        Raises:
            Refused: 400, when it comes twice with different values or is not ASCII.
        """
        values = [value for given, value in self.headers if given == name]
        if not values:
            return None
        value = values[0]
        if values.count(value) != len(values) or not value.isascii():
            raise refusal(400, ErrorCode.BAD_REQUEST, f"{name.decode()}: one ASCII value expected")
        return value.decode("ascii")

    def parameter(self, name: str) -> str | None:
        """Return the first value of a query parameter, None when it is absent."""
        for given, value in self.query:
            if given == name:
                return value
        return None

    @property
    def path(self) -> str:
        """The path for logs: decoded, without the query, which may hold a credential."""
        return "/" + "/".join(self.segments)

    @property
    def content_length(self) -> int | None:
        """The declared length of the body, None when it is not declared; h11 has checked that it is one number."""
        return next((int(value) for name, value in self.headers if name == b"content-length"), None)

    @property
    def has_body(self) -> bool:
        """Whether a body follows the head (RFC 9112 section 6.3)."""
        for name, value in self.headers:
            if name == b"transfer-encoding" or (name == b"content-length" and int(value)):
                return True
        return False


def parse_request(
    method: bytes, target: bytes, headers: tuple[tuple[bytes, bytes], ...], version: bytes = b"1.1"
) -> Request:
    """Check and take apart what h11 let through (RFC 9112 section 3).

    Raises:
        Refused: 400 for a target, Host or message framing that is ambiguous or malformed.
    """
    names = [name for name, _ in headers]
    if b"content-length" in names and b"transfer-encoding" in names:
        raise refusal(400, ErrorCode.BAD_REQUEST, "Content-Length and Transfer-Encoding together", close=True)
    for name, value in headers:
        if name == b"host" and not _HOST.fullmatch(value):
            raise refusal(400, ErrorCode.BAD_REQUEST, "the Host header is no host name", close=True)
    segments, query = _parse_target(target)
    return Request(method.decode("ascii"), segments, query, headers, version)


def _parse_target(target: bytes) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    if not _TARGET.fullmatch(target):
        raise refusal(
            400, ErrorCode.BAD_REQUEST, "the request target holds characters that must be escaped", close=True
        )
    absolute = _ABSOLUTE.match(target)
    text = (target[absolute.end() :] if absolute else target).decode("ascii")
    path, _, query = text.partition("?")
    if absolute and not path:
        path = "/"
    if not path.startswith("/"):
        raise refusal(400, ErrorCode.BAD_REQUEST, "the request target is no path", close=True)
    if "%" not in text and "+" not in text:  # nothing is escaped, and taking it apart properly takes ten times as long
        return tuple(path[1:].split("/")), _plain_fields(query)
    if _BAD_ESCAPE.search(text):
        raise refusal(400, ErrorCode.BAD_REQUEST, "the request target holds a broken percent escape", close=True)
    try:
        segments = tuple(unquote(segment, errors="strict") for segment in path[1:].split("/"))
        fields = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS)
    except UnicodeDecodeError:
        raise refusal(400, ErrorCode.BAD_REQUEST, "the request target is not UTF-8", close=True) from None
    except ValueError:
        raise _too_many_fields() from None
    return segments, tuple(fields)


def _plain_fields(query: str) -> tuple[tuple[str, str], ...]:
    """Return what `parse_qsl` does where nothing is escaped."""
    parts = query.split("&")
    if len(parts) > MAX_QUERY_FIELDS:
        raise _too_many_fields()
    return tuple([(name, value) for part in parts if part for name, _, value in (part.partition("="),)])


def _too_many_fields() -> Refused:
    return refusal(400, ErrorCode.BAD_REQUEST, f"the query has more than {MAX_QUERY_FIELDS} fields", close=True)
