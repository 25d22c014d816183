"""What settings must be to each other, and to the machine."""

from collections.abc import Iterator
from pathlib import Path

from broker.config.bind import TcpBind, UnixBind, is_local, parse_bind
from broker.config.errors import Problem
from broker.config.model import Config


def cross_check(config: Config) -> list[Problem]:
    """Return what contradicts itself in a configuration whose single values are all right."""
    return list(_contradictions(config))


def _contradictions(config: Config) -> Iterator[Problem]:
    server = config.server
    if server.tls_certificate and not server.tls_key:
        yield Problem("server.tls_key", "is needed with server.tls_certificate")
    if server.tls_key and not server.tls_certificate:
        yield Problem("server.tls_certificate", "is needed with server.tls_key")
    if server.proxy_protocol and not server.trusted_proxies:
        yield Problem(
            "server.trusted_proxies", "is needed with server.proxy_protocol: it names who may send the header"
        )
    for name in config.events.history:
        if name not in config.events.namespaces:
            message = f'"{name}" is not among events.namespaces'
            yield Problem(f"events.history.{name}", message, given=("events.namespaces",))
    if config.admin.bind and _collide(parse_bind(config.admin.bind), parse_bind(server.bind)):
        yield Problem("admin.bind", "must not be the public address, server.bind", given=("server.bind",))
    if config.redis.data_dir and not config.redis.data_dir.is_absolute():
        yield Problem("redis.data_dir", "must be an absolute path")
    if config.control.log_retention < config.control.replay_window:
        yield Problem(
            "control.log_retention",
            "must be at least control.replay_window, which is read from that log",
            given=("control.replay_window",),
        )
    if config.limits.max_publication_bytes > config.limits.outbox_bytes:
        yield Problem(
            "limits.outbox_bytes",
            "must be at least limits.max_publication_bytes, for the largest event to fit",
            given=("limits.max_publication_bytes",),
        )


def _collide(one: TcpBind | UnixBind, other: TcpBind | UnixBind) -> bool:
    """Tell whether two listeners would be, or might be, reached at the same address."""
    if isinstance(one, UnixBind) or isinstance(other, UnixBind):
        return one == other
    hosts = {_LOOPBACK if host in _LOOPBACKS else host for host in (one.host, other.host)}
    return one.port == other.port != 0 and (len(hosts) == 1 or bool(hosts & _EVERYWHERE))


_LOOPBACK = "localhost"
_LOOPBACKS = frozenset({"localhost", "127.0.0.1", "::1"})
_EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104  what to look out for


def check_files(config: Config) -> list[Problem]:
    """Return what is wrong for a broker in service: files that it names, which are looked at, and what is for tests."""
    return [*_missing_files(config), *_exposed(config)]


def _exposed(config: Config) -> Iterator[Problem]:
    if config.debug.echo_path and not is_local(config.server.bind):
        message = f"is for tests: it is refused while server.bind is {config.server.bind}"
        yield Problem("debug.echo_path", message, given=("server.bind",))


def _missing_files(config: Config) -> Iterator[Problem]:
    for key, path in (
        ("server.tls_certificate", config.server.tls_certificate),
        ("server.tls_key", config.server.tls_key),
        ("admin.token_file", config.admin.token_file),
        ("redis.master_key_file", config.redis.master_key_file),
    ):
        if path is not None and (reason := unreadable(path)):
            yield Problem(key, f"{path} {reason}")
    if config.redis.url == "embedded" and config.redis.data_dir is None:
        message = 'is needed with redis.url = "embedded", so that state outlives a restart'
        yield Problem("redis.data_dir", message, given=("redis.url",))


def unreadable(path: Path) -> str | None:
    """Return why a file cannot be read, as half a sentence that reads well after its path; None if it can."""
    try:
        with path.open("rb") as file:
            return None if file.read(1) else "is empty"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
