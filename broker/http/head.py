"""The head of a WebSocket upgrade, when it is written as every client writes it."""

import re

import attrs

__all__ = ["PlainHead", "read_plain_upgrade"]

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_VALUE = rb"(?:[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)?"
_HEAD = re.compile(rb"GET ([\x21-\x7e]+) HTTP/1\.1\r\n((?:%b: ?%b\r\n)+)\r\n" % (_TOKEN, _VALUE))
_FIELD = re.compile(rb"(%b): ?(%b)\r\n" % (_TOKEN, _VALUE))
_NOT_PLAIN = frozenset({b"content-length", b"transfer-encoding", b"expect"})


@attrs.frozen
class PlainHead:
    """A request head: names in lower case, values stripped; `size` is how many bytes it takes with its blank line."""

    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    size: int


def read_plain_upgrade(data: bytes) -> PlainHead | None:
    """Return the head at the beginning of `data` if it is a whole and plain GET that asks for an upgrade, else None.

    h11 takes five times as long, which a thousand browsers that reconnect in the same second would feel. This reads a
    part of what h11 accepts, to the same result; whatever is unusual in any way (a body, folded lines, a second Host,
    bytes beyond ASCII, a head that has not arrived whole) is left to h11.
    """
    found = _HEAD.match(data)
    if found is None:
        return None
    headers = tuple([(name.lower(), value) for name, value in _FIELD.findall(found[2])])
    names = [name for name, _ in headers]
    if names.count(b"host") != 1 or b"upgrade" not in names or not _NOT_PLAIN.isdisjoint(names):
        return None
    return PlainHead(found[1], headers, found.end())
