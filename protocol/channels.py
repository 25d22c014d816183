"""Channels, the namespaces that they live in, and who may see which.

A channel is ``<namespace>:<name>``, say ``workflow:my-wf``. Only channels of configured namespaces exist for clients,
so that a subscription can never reach any other Redis channel.
"""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final

import attrs

from protocol.codes import ErrorCode
from protocol.errors import ProtocolError
from protocol.ids import json_type

MAX_CHANNEL_BYTES: Final = 255
"""In UTF-8."""

OWN_NAMESPACES: Final = frozenset({"control", "signalbox"})
"""Namespaces of the control plane's own Redis channels, which no client may ever subscribe to."""

_CONTROL_CHARACTER: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NOT_IN_NAMESPACE: Final = re.compile(r"[:*?\[]")


def check_channel(value: object) -> str:
    """Return ``value`` if it can name a channel: 1 to 255 bytes of UTF-8 without control characters.

    Raises ProtocolError (``invalid_channel``).
    """
    if not isinstance(value, str):
        raise ProtocolError(ErrorCode.INVALID_CHANNEL, f"channel must be a string, not {json_type(value)}")
    if not value:
        raise ProtocolError(ErrorCode.INVALID_CHANNEL, "channel must not be empty")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ProtocolError(ErrorCode.INVALID_CHANNEL, "channel must be valid Unicode") from None
    if size > MAX_CHANNEL_BYTES:
        raise ProtocolError(ErrorCode.INVALID_CHANNEL, f"channel must be at most {MAX_CHANNEL_BYTES} bytes of UTF-8")
    if _CONTROL_CHARACTER.search(value):
        raise ProtocolError(ErrorCode.INVALID_CHANNEL, "channel must not contain control characters")
    return value


def namespace_of(channel: str) -> str:
    """The part before the first colon; what follows it must not be empty.

    Raises ProtocolError (``invalid_channel``).
    """
    namespace, colon, name = channel.partition(":")
    if not namespace or not colon or not name:
        raise ProtocolError(
            ErrorCode.INVALID_CHANNEL, "channel must be a namespace, a colon and a name, like workflow:my-wf", channel
        )
    return namespace


def check_namespace(name: object) -> str:
    """Return ``name`` if it may be configured as a namespace of events.

    Raises ProtocolError (``invalid_channel``) for the control plane's own namespaces and for names that would match
    more than one namespace (``: * ? [``).
    """
    namespace = check_channel(name)
    if namespace in OWN_NAMESPACES:
        raise ProtocolError(ErrorCode.INVALID_CHANNEL, f"namespace {namespace!r} belongs to the control plane")
    if _NOT_IN_NAMESPACE.search(namespace):
        raise ProtocolError(ErrorCode.INVALID_CHANNEL, f"namespace {namespace!r} must not contain any of : * ? [")
    return namespace


@attrs.frozen
class Grant:
    """The channels that a key may see.

    A channel is allowed when its namespace is one of ``namespaces`` and one of ``globs`` matches its whole name,
    case-sensitively. In a glob ``*`` stands for any characters (colons too), ``?`` for one, ``[…]`` for one of a set.
    """

    globs: tuple[str, ...]
    namespaces: frozenset[str]

    def allows(self, channel: str) -> bool:
        """Whether the key may see ``channel``; never raises."""
        namespace, _, name = channel.partition(":")
        if not name or namespace not in self.namespaces:
            return False
        return "*" in self.globs or any(fnmatchcase(channel, glob) for glob in self.globs)


def grant_for(globs: tuple[str, ...], workflow_id: str | None, namespaces: Iterable[str]) -> Grant:
    """What a key may see: its globs; nothing, if it is bound to a workflow and has none; else every namespace."""
    if not globs and workflow_id is None:
        globs = ("*",)
    return Grant(tuple(globs), frozenset(namespaces))
