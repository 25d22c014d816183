"""`signalbox bench`: how many clients, how many events, how late."""

import secrets
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, urlsplit

import click

from broker.cli.bench_client import Address
from broker.cli.bench_load import Load, Outcome, Progress, Run, cpu_of
from broker.cli.bench_publisher import Plan
from broker.cli.bench_report import as_record, show
from broker.cli.errors import Failure
from broker.cli.output import print_json
from broker.cli.target import Target, actor, broker_options, json_option, target_options
from broker.cli.types import Count, Finite
from broker.config import Config
from broker.config.bind import UnixBind, parse_bind
from broker.store.keys import add_key, revoke_key

_ORGANIZATION = "bench"
_KEY_SECONDS = 3600


@click.command()
@click.option("--clients", type=Count(1, 1_000_000), default=100, show_default=True, help="WebSockets to open.")
@click.option("--channels", type=Count(1, 100_000), default=1, show_default=True, help="Channels in all.")
@click.option("--per-client", type=Count(1), default=1, show_default=True, help="Channels of each client.")
@click.option("--messages", type=Count(1), default=200, show_default=True, help="Events to publish.")
@click.option("--rate", type=Finite(min=0.001), default=50.0, show_default=True, help="Events a second.")
@click.option("--flood", type=Count(1), metavar="N", help="No rate: keep N events under way at all times.")
@click.option("--size", type=Count(1, 1 << 20), default=200, show_default=True, help="Bytes of an event.")
@broker_options(
    "The broker, as ws://HOST:PORT or wss://HOST.  [default: server.bind]",
    "An API key.  [default: one is made for the run]",
)
@click.option("--insecure", is_flag=True, help="Accept any certificate.")
@click.option("--pid", type=int, metavar="PID", help="The broker, if it runs here: measure its CPU and memory.")
@click.option(
    "--timeout",
    type=Finite(min=0, min_open=True, max=86400),
    metavar="SECONDS",
    default=20.0,
    show_default=True,
    help="Give up after so long without progress.",
)
@json_option
@target_options
def bench(
    target: Target,
    clients: int,
    channels: int,
    per_client: int,
    messages: int,
    rate: float,
    flood: int | None,
    size: int,
    url: str | None,
    token: str | None,
    insecure: bool,
    pid: int | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Load a running broker, and measure it from its clients' side.

    Opens WebSockets that subscribe, publishes events through Redis as any publisher does, and tells how fast and how
    late they arrived. The channels are new ones of the first configured namespace: nobody else's are touched.

    Latency is measured on one clock, so that the broker may be anywhere, but Redis must be reached from here.
    """
    if pid is not None and cpu_of(pid) is None:
        raise Failure(f"--pid: there is no process {pid} here whose CPU time can be read.")
    run = secrets.token_hex(4)
    namespace = target.config.events.namespaces[0]
    names = [f"{namespace}:bench-{run}-{number}" for number in range(channels)]
    plan = Plan(
        url=target.url,
        channels=tuple((name, target.layout.event(name)) for name in names),
        messages=messages,
        size=size,
        rate=0.0 if flood else rate,
        window=flood or 0,
    )
    load = Load(plan, clients, per_client, timeout, pid)
    with _token(target, token, f"{namespace}:bench-{run}-*") as key, _progress(as_json) as progress:
        outcome = Run(load, _address(target.config, url, key, insecure), progress).run()
    _tell(outcome, as_json)


def _tell(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        print_json(as_record(outcome))
    else:
        show(outcome)
    if outcome.delivered < outcome.expected:
        raise Failure(f"{outcome.expected - outcome.delivered:,} deliveries never came.")


@contextmanager
def _token(target: Target, token: str | None, glob: str) -> Iterator[str]:
    """Give the key that was named, or one that is good for this run alone."""
    if token is not None:
        yield token
        return
    made = target.run(
        add_key(
            target.layout,
            _ORGANIZATION,
            channels=(glob,),
            expires_at=int(time.time()) + _KEY_SECONDS,
            name="signalbox bench",
            sealer=target.sealer,
        )
    )
    try:
        yield made.api_key
    finally:
        target.run(
            revoke_key(target.layout, made.record.key_id, actor=actor(), limits=target.log_limits, sealer=target.sealer)
        )


def _address(config: Config, url: str | None, token: str, insecure: bool) -> Address:
    """Return where to connect: what --url says, else where the configured broker listens."""
    target = f"/ws/?token={quote(token, safe='')}"
    if url is None:
        bind = parse_bind(config.server.bind)
        secure = config.server.tls_certificate is not None
        if isinstance(bind, UnixBind):
            return Address(socket.AF_UNIX, bind.path, "localhost", target, _tls(insecure) if secure else None)
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind.host, bind.host)  # noqa: S104  it is replaced
        port = bind.port
    else:
        parts = urlsplit(url)
        assert parts.hostname is not None
        secure = parts.scheme in ("https", "wss")
        host, port = parts.hostname, parts.port or (443 if secure else 80)
    try:
        family, _, _, _, name = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise Failure(f"cannot find {host}: {error.strerror}.") from None
    return Address(family, (str(name[0]), int(name[1])), host, target, _tls(insecure) if secure else None)


def _tls(insecure: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@contextmanager
def _progress(as_json: bool) -> Iterator[Progress]:
    """Give a progress bar on stderr, if a person watches."""
    if as_json or not sys.stderr.isatty():
        yield lambda _what, _done, _of: None
        return
    shown: list[tuple[str, int]] = [("", -1)]

    def tell(what: str, done: int, of: int) -> None:
        percent = 100 * done // max(of, 1)
        if shown[0] != (what, percent):
            shown[0] = (what, percent)
            bar = "#" * (percent * 36 // 100)
            click.echo(f"\r{what:<12}[{bar:<36}] {percent:3}%", nl=False, err=True)

    try:
        yield tell
    finally:
        click.echo("\r" + " " * 60 + "\r", nl=False, err=True)
