"""What a value must be besides its type: validators for the fields of the model.

Each raises ValueError with half a sentence that reads well after `key: `.
"""

import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs

from broker.config.bind import parse_bind
from protocol.channels import check_namespace
from protocol.errors import ProtocolError

Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")

_ECHO_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")
_TAKEN_PATHS = frozenset({"ws", "api", "health", "healthz"})

REDIS_SCHEMES = ("redis", "rediss", "unix")


def between(low: float, high: float = math.inf) -> Validator:
    """Return a validator for a number in [low, high]."""

    def check(_instance: object, _field: "attrs.Attribute[Any]", value: float) -> None:
        if not low <= value <= high:
            bound = f"between {low:.15g} and {high:.15g}" if high != math.inf else f"at least {low:.15g}"
            raise ValueError(f"must be {bound}, not {value:.15g}")

    return check


def one_of(*choices: str) -> Validator:
    """Return a validator for one of a few words."""

    def check(_instance: object, _field: "attrs.Attribute[Any]", value: str) -> None:
        if value not in choices:
            wanted = ", ".join(f'"{choice}"' for choice in choices)
            raise ValueError(f'must be one of {wanted}, not "{value}"')

    return check


def bind(_instance: object, _field: "attrs.Attribute[Any]", value: str) -> None:
    """Check an address to listen on."""
    parse_bind(value)


def optional_bind(_instance: object, _field: "attrs.Attribute[Any]", value: str) -> None:
    """Check an address to listen on, where the empty string means: do not listen."""
    if value:
        parse_bind(value)


def networks(_instance: object, _field: "attrs.Attribute[Any]", value: tuple[str, ...]) -> None:
    """Check IP addresses or networks, such as 10.0.0.0/8; `unix` stands for peers on a unix socket."""
    for text in value:
        if text == "unix":
            continue
        try:
            ipaddress.ip_network(text)
        except ValueError:
            raise ValueError(_no_network(text)) from None


def _no_network(text: str) -> str:
    """Say what is wrong with what is neither an address nor a network; most often it is an address within one."""
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return f'"{text}" is no IP address or network such as 10.0.0.0/8'
    return f'"{text}" is no whole network: is {meant} meant?'


def origins(_instance: object, _field: "attrs.Attribute[Any]", value: tuple[str, ...]) -> None:
    """Check origins as browsers send them (RFC 6454 section 6.2): scheme://host, and the port where it is unusual."""
    for text in value:
        if not _ORIGIN.fullmatch(text):
            raise ValueError(f'"{text}" is no origin: write it as in https://app.example.com or http://localhost:3000')


def redis_url(_instance: object, _field: "attrs.Attribute[Any]", value: str) -> None:
    """Check a Redis URL without ever repeating it: it may hold a password."""
    if value == "embedded":
        return
    scheme = value.partition("://")[0]
    if scheme not in REDIS_SCHEMES or "://" not in value:
        raise ValueError('must be "embedded" or start with redis://, rediss:// or unix://')
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise ValueError(
            "cannot be read: is the port a number, and is each special character of the password percent-encoded?"
        ) from None
    if scheme == "unix" and not parts.path:
        raise ValueError("needs the path of a socket, as in unix:///run/redis/redis.sock")
    if scheme != "unix" and not parts.hostname:
        raise ValueError("needs a host, as in redis://127.0.0.1:6379/0")


def prefix(_instance: object, _field: "attrs.Attribute[Any]", value: str) -> None:
    """Check the text that goes before every key and channel; braces would move Redis's hash tag."""
    if len(value) > 64 or not value.isprintable() or any(char in "{}*?[]\\ " for char in value):
        raise ValueError("may have up to 64 printable characters, none of them a space or { } * ? [ ] \\")


def namespaces(_instance: object, _field: "attrs.Attribute[Any]", value: tuple[str, ...]) -> None:
    """Check the part of a channel's name before its first colon."""
    if not value:
        raise ValueError("must name at least one namespace")
    for name in value:
        try:
            check_namespace(name)
        except ProtocolError as error:
            raise ValueError(f'"{name}" cannot be one: {error.message}') from None
    if len(set(value)) != len(value):
        raise ValueError("names a namespace twice")


def histories(_instance: object, _field: "attrs.Attribute[Any]", value: Mapping[str, object]) -> None:
    """Check that history is kept for well-formed namespaces."""
    if value:
        namespaces(_instance, _field, tuple(value))


def echo_path(_instance: object, _field: "attrs.Attribute[Any]", value: str) -> None:
    """Check the path of the echo endpoint, where the empty string means: there is none."""
    if value and not _ECHO_PATH.fullmatch(value):
        raise ValueError('must be a path of plain characters, as in "/debug/echo"')
    if value and value.split("/")[1] in _TAKEN_PATHS:
        raise ValueError(f"must not begin with one of the broker's own: {', '.join(sorted(_TAKEN_PATHS))}")
