"""Where a server is and who we are there: one parsed Redis URL."""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import urlsplit

import attrs
import redis
from redis.asyncio.connection import SSLConnection
from redis.connection import parse_url
from redis.exceptions import RedisError

from broker.link.reason import reason

DEFAULT_PORT = 6379
_OURS = frozenset({"host", "port", "path", "db", "username", "password"})
# Settings of redis-py's own pools, for which a URL that is shared with publishers may carry values; links and commands
# have their own.
_POOL_SETTINGS = frozenset(
    {
        "client_name",
        "decode_responses",
        "encoding",
        "health_check_interval",
        "legacy_responses",
        "max_connections",
        "protocol",
        "retry_on_timeout",
        "socket_connect_timeout",
        "socket_keepalive",
        "socket_read_size",
        "socket_timeout",
        "timeout",
    }
)


@attrs.frozen
class Address:
    """One server: TCP (`host`, `port`), TLS (`tls` set as well) or a unix socket (`path` set)."""

    host: str = "localhost"
    port: int = DEFAULT_PORT
    path: str | None = None
    db: int = 0
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    tls: ssl.SSLContext | None = attrs.field(default=None, repr=False, eq=False)

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read `redis://`, `rediss://` or `unix://`, with redis-py's query options (`db`, `ssl_ca_certs`, ...).

        Certificate files are loaded here, so that a wrong path is found at start. Raises ValueError with a text that
        never contains the password.
        """
        scheme = url.partition("://")[0]
        if scheme not in ("redis", "rediss", "unix"):
            raise ValueError("a Redis URL starts with redis://, rediss:// or unix://")
        try:
            # redis-py builds its own classes from these; their types are those of its URL options.
            options: dict[str, object] = dict(parse_url(url))  # type: ignore[no-untyped-call]  # of redis-py
        except ValueError as error:
            if str(error).startswith("Invalid value for"):
                raise ValueError(f"this Redis URL has an {str(error)[0].lower()}{str(error)[1:].rstrip('.')}") from None
            # urllib's words may quote a piece of an unescaped password.
            raise ValueError(
                "this Redis URL cannot be read: is the port a number, and is each special character of the "
                "password percent-encoded?"
            ) from None
        options.pop("connection_class", None)
        tls_options = {name: options.pop(name) for name in list(options) if name.startswith("ssl_")}
        unknown = sorted(options.keys() - _OURS - _POOL_SETTINGS)
        if unknown and "@" in urlsplit(url).query:
            # The name may be a piece of a password with a question mark in it.
            raise ValueError("this Redis URL cannot be read: each special character of the password is percent-encoded")
        if unknown:
            raise ValueError(f"this Redis URL has an unknown option {unknown[0]!r}")
        if scheme == "unix":
            if "path" not in options:
                raise ValueError("a unix:// URL names the socket's path, as in unix:///run/redis/redis.sock")
        else:
            _check_db_path(url, options)
        _check_place(options)
        if tls_options and scheme != "rediss":
            raise ValueError(f"the option {min(tls_options)!r} needs a rediss:// URL")
        chosen = {name: value for name, value in options.items() if name in _OURS}
        tls = _tls_context(tls_options) if scheme == "rediss" else None
        address = cls(**chosen, tls=tls)  # type: ignore[arg-type]  # typed by redis-py's URL_QUERY_ARGUMENT_PARSERS
        if address.db < 0:
            raise ValueError("the db of a Redis URL is a number from 0")
        return address

    def describe(self) -> str:
        """Return the address as a URL for logs and messages: with the user's name, never with the password."""
        who = f"{self.username}@" if self.username else ""
        if self.path is not None:
            where = f"unix://{who}{self.path}" + (f"?db={self.db}" if self.db else "")
        else:
            host = f"[{self.host}]" if ":" in self.host else self.host
            where = f"{'redis' if self.tls is None else 'rediss'}://{who}{host}:{self.port}/{self.db}"
        return where


def open_client(url: str, **settings: Any) -> redis.Redis:
    """Return a redis-py client for a URL that `Address.parse` takes: it says where the server is, `settings` the rest.

    redis-py alone would let the URL's own settings go first, or refuse them.
    """
    options = parse_url(url)  # type: ignore[no-untyped-call]  # of redis-py
    place = {name: value for name, value in options.items() if name not in _POOL_SETTINGS}
    return redis.Redis.from_pool(redis.ConnectionPool(**settings, **place))


def _check_db_path(url: str, options: dict[str, object]) -> None:
    path = urlsplit(url).path.strip("/")
    if path and "db" not in options:
        raise ValueError("the path of a Redis URL is the number of the db, as in redis://host:6379/0")


def _check_place(options: dict[str, object]) -> None:
    host, path = str(options.get("host", "localhost")), str(options.get("path", ""))
    try:
        host.encode("idna")  # as Python does before it asks the resolver
    except UnicodeError:
        raise ValueError("the host of this Redis URL is no host name") from None
    if "\0" in host + path:
        raise ValueError("this Redis URL has a zero byte where the server is")


def _tls_context(options: dict[str, object]) -> ssl.SSLContext:
    try:
        return SSLConnection(**options).ssl_context.get()  # type: ignore[arg-type]  # URL options, as above
    except (OSError, RedisError, TypeError, ValueError) as error:
        given = ", ".join(f"{name}={value}" for name, value in sorted(options.items()) if name != "ssl_password")
        raise ValueError(f"the TLS options of this Redis URL do not work ({given}): {reason(error)}") from None
