"""Every setting, with its default and its bounds.

Durations are seconds, sizes are bytes, an absent file is None. Attribute names are the keys of the TOML file; the
manual with the reasons is conf/signalbox.toml.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import attrs

from broker.config import checks
from broker.config.checks import between, one_of

KIB = 1024
MIB = 1024 * 1024


@attrs.frozen
class Server:
    """`[server]`: the public listener."""

    bind: str = attrs.field(default="127.0.0.1:8765", validator=checks.bind)
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    drain_timeout: float = attrs.field(default=20.0, validator=between(0, 3600))
    trusted_proxies: tuple[str, ...] = attrs.field(default=(), validator=checks.networks)
    proxy_protocol: bool = False
    io_uring_from: int = attrs.field(default=64, validator=between(0, 1_000_000))


@attrs.frozen
class Redis:
    """`[redis]`: the store, and the bus that publishers use."""

    url: str = attrs.field(default="embedded", validator=checks.redis_url, repr=False)
    data_dir: Path | None = None
    prefix: str = attrs.field(default="", validator=checks.prefix)
    master_key_file: Path | None = None


@attrs.frozen
class Control:
    """`[control]`: sessions of SDKs."""

    handshake_signature: Literal["required", "optional"] = attrs.field(
        default="required", validator=one_of("required", "optional")
    )
    signature_max_age: float = attrs.field(default=300.0, validator=between(1, 86400))
    ack_timeout: float = attrs.field(default=5.0, validator=between(0.05, 3600))
    ack_attempts: int = attrs.field(default=5, validator=between(1, 100))
    replay_window: float = attrs.field(default=300.0, validator=between(0, 86400))
    ping_interval: float = attrs.field(default=20.0, validator=between(0.05, 3600))
    silent_timeout: float = attrs.field(default=900.0, validator=between(1, 86400 * 7))
    upgrade_hold: float = attrs.field(default=8.0, validator=between(0, 9))
    key_overlap: float = attrs.field(default=60.0, validator=between(0, 86400))
    log_retention: float = attrs.field(default=3600.0, validator=between(60, 86400 * 30))
    log_max_entries: int = attrs.field(default=100_000, validator=between(100, 100_000_000))


@attrs.frozen
class History:
    """How much of a channel's past is kept: at most `size` events, each channel for `ttl` seconds after its last."""

    size: int = attrs.field(default=100, validator=between(1, 100_000))
    ttl: float = attrs.field(default=300.0, validator=between(1, 86400 * 7))


def _no_history() -> Mapping[str, History]:
    return MappingProxyType({})


@attrs.frozen
class Events:
    """`[events]`: the event socket."""

    namespaces: tuple[str, ...] = attrs.field(default=("workflow", "execution", "epic"), validator=checks.namespaces)
    ping_interval: float = attrs.field(default=30.0, validator=between(0.05, 3600))
    pong_timeout: float = attrs.field(default=10.0, validator=between(0.05, 3600))
    history: Mapping[str, History] = attrs.field(
        factory=_no_history, converter=MappingProxyType, validator=checks.histories, hash=False
    )
    allowed_origins: tuple[str, ...] = attrs.field(default=(), validator=checks.origins)
    compression: bool = False


@attrs.frozen
class Limits:
    """`[limits]`: what one peer, one key, or all of them together may use."""

    max_connections: int = attrs.field(default=20_000, validator=between(1, 10_000_000))
    max_connections_per_key: int = attrs.field(default=5_000, validator=between(1, 10_000_000))
    max_connections_per_address: int = attrs.field(default=5_000, validator=between(1, 10_000_000))
    max_handshakes: int = attrs.field(default=2_048, validator=between(1, 1_000_000))
    max_handshakes_per_address: int = attrs.field(default=512, validator=between(1, 1_000_000))
    bad_credentials_per_minute: int = attrs.field(default=20, validator=between(1, 1_000_000))
    requests_per_second: float = attrs.field(default=500.0, validator=between(0.1, 1_000_000))
    tickets_per_second: float = attrs.field(default=50.0, validator=between(0.1, 1_000_000))
    max_subscriptions: int = attrs.field(default=1_000, validator=between(1, 1_000_000))
    max_message_bytes: int = attrs.field(default=64 * KIB, validator=between(256, 64 * MIB))
    max_publication_bytes: int = attrs.field(default=MIB, validator=between(256, 64 * MIB))
    outbox_bytes: int = attrs.field(default=MIB, validator=between(16 * KIB, 1024 * MIB))
    handshake_timeout: float = attrs.field(default=10.0, validator=between(0.1, 300))
    close_timeout: float = attrs.field(default=5.0, validator=between(0.05, 300))
    write_stall_timeout: float = attrs.field(default=30.0, validator=between(0.05, 3600))
    messages_per_second: float = attrs.field(default=50.0, validator=between(0.1, 1_000_000))
    frames_per_second: float = attrs.field(default=200.0, validator=between(0.1, 1_000_000))
    rate_patience: float = attrs.field(default=10.0, validator=between(0.05, 3600))
    publications_per_second: float = attrs.field(default=20_000.0, validator=between(0.1, 100_000_000))
    max_head_bytes: int = attrs.field(default=16 * KIB, validator=between(KIB, MIB))
    max_body_bytes: int = attrs.field(default=64 * KIB, validator=between(256, 64 * MIB))
    max_fragments: int = attrs.field(default=1_024, validator=between(1, 1_000_000))


@attrs.frozen
class Admin:
    """`[admin]`: the listener for operators, never on the public port."""

    bind: str = attrs.field(default="127.0.0.1:8766", validator=checks.optional_bind)
    token_file: Path | None = None


@attrs.frozen
class Log:
    """`[log]`: what is said on stderr."""

    level: Literal["debug", "info", "warning", "error"] = attrs.field(
        default="info", validator=one_of("debug", "info", "warning", "error")
    )
    format: Literal["auto", "json", "text"] = attrs.field(default="auto", validator=one_of("auto", "json", "text"))


@attrs.frozen
class Debug:
    """`[debug]`: for tests of the broker itself, never for service."""

    echo_path: str = attrs.field(default="", validator=checks.echo_path)


@attrs.frozen
class Config:
    """The whole configuration; `Config()` is what an empty file means."""

    server: Server = attrs.field(factory=Server)
    redis: Redis = attrs.field(factory=Redis)
    control: Control = attrs.field(factory=Control)
    events: Events = attrs.field(factory=Events)
    limits: Limits = attrs.field(factory=Limits)
    admin: Admin = attrs.field(factory=Admin)
    log: Log = attrs.field(factory=Log)
    debug: Debug = attrs.field(factory=Debug)
