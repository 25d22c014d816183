"""A configuration is taken up while the broker runs, whole or not at all, and no connection is closed by it."""

import contextlib
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import structlog
import trio
import trustme
from structlog.testing import capture_logs

from broker import observe
from broker.config import Admin, Config, ConfigError, Events, Log, Problem, Redis, loads
from broker.daemon.notify import Notifier
from broker.daemon.reload import NEEDS_RESTART, Reloader, changed_keys, effective
from tests.conftest import Valkey
from tests.support.process import BrokerProcess, broker_process
from tests.support.whole import Whole, whole_broker
from tests.support.ws_client import WsClient

KEYS = [
    f"{section.name}.{key.name}"
    for section in attrs.fields(Config)
    for key in attrs.fields(type(getattr(Config(), section.name)))
]


def test_what_needs_a_restart_exists() -> None:
    """Every setting that is said to need a restart is a setting."""
    assert set(KEYS) >= NEEDS_RESTART


def test_changed_keys() -> None:
    """Exactly the settings that differ are named, in the order of the manual."""
    old = loads("")
    new = loads('[log]\nlevel = "debug"\n[limits]\nmax_subscriptions = 7\n[server]\nbind = "127.0.0.1:1"\n')
    assert changed_keys(old, new) == ["server.bind", "limits.max_subscriptions", "log.level"]
    assert changed_keys(old, loads("")) == []


def test_effective() -> None:
    """What needs a restart stays as it was, and the rest is new."""
    old = loads('[redis]\nprefix = "a:"\n')
    new = loads('[redis]\nprefix = "b:"\n[limits]\nmax_subscriptions = 7\n')
    found = effective(old, new)
    assert (found.redis.prefix, found.limits.max_subscriptions) == ("a:", 7)
    assert changed_keys(old, found) == ["limits.max_subscriptions"]


def test_the_master_key_is_that_of_the_start() -> None:
    """Secrets are unsealed with what was opened at the start: a reload must not claim anything else."""
    new = loads('[redis]\nmaster_key_file = "/etc/signalbox/other.key"\n')
    assert effective(loads(""), new).redis.master_key_file is None


def config_text(valkey: Valkey, **events: str) -> str:
    """A configuration for a broker on this store."""
    more = "".join(f"{name} = {value}\n" for name, value in events.items())
    return f"""
[server]
bind = "127.0.0.1:0"
[redis]
url = "{valkey.url}"
[admin]
bind = ""
[events]
{more}"""


async def reload(broker: BrokerProcess, outcome: str) -> str:
    """Send SIGHUP and read the log up to the line with this outcome, which is returned."""
    broker.process.send_signal(signal.SIGHUP)
    stream = broker.process.stderr
    assert stream is not None
    with trio.fail_after(10):
        while outcome not in (line := await trio.to_thread.run_sync(stream.readline)):
            assert line, "the broker has ended"
    return line


async def test_reload_of_a_running_broker(valkey: Valkey, tmp_path: Path) -> None:
    """Good, broken and good again: an open connection sees each new setting, none closes it, a broken one is said."""
    path = tmp_path / "signalbox.toml"
    path.write_text(config_text(valkey))
    api_key = _add_key(path)
    with broker_process(path) as broker:
        host, port = broker.where.rsplit(":", 1)
        async with await WsClient.connect((host, int(port)), f"/ws/?token={api_key}") as client:
            await client.send_json(type="subscribe", channel="order:1")
            assert (await client.receive_json())["code"] == "forbidden_channel"

            path.write_text(config_text(valkey, namespaces='["order"]'))
            line = await reload(broker, "configuration reloaded")
            assert "events.namespaces" in line
            await client.send_json(type="subscribe", channel="order:1")
            assert (await client.receive_json())["type"] == "subscribed"

            path.write_text(config_text(valkey, namespaces="7", nonsense="1"))
            line = await reload(broker, "not reloaded")
            assert "events.namespaces" in line
            assert "events.nonsense" in line
            await client.send_json(type="subscribe", channel="order:2")
            assert (await client.receive_json())["type"] == "subscribed"

            path.write_text(config_text(valkey, namespaces='["order"]').replace('bind = ""', 'bind = "127.0.0.1:1"'))
            line = await reload(broker, "a restart is needed")
            assert "admin.bind" in line
            await client.send_json(type="subscribe", channel="order:3")
            assert (await client.receive_json())["type"] == "subscribed"


async def test_certificates_are_renewed(valkey: Valkey, tmp_path: Path) -> None:
    """A renewed certificate is used for newcomers after a reload, a damaged one is not; nobody is disconnected."""
    path, certificate, key = (tmp_path / name for name in ("signalbox.toml", "certificate.pem", "key.pem"))
    first = _issue(certificate, key)
    path.write_text(
        config_text(valkey).replace("[server]", f'[server]\ntls_certificate = "{certificate}"\ntls_key = "{key}"', 1)
    )
    api_key = _add_key(path)
    with broker_process(path) as broker:
        host, port = broker.where.rsplit(":", 1)
        target = f"/ws/?token={api_key}"
        async with await WsClient.connect((host, int(port)), target, tls=first) as old:
            second = _issue(certificate, key)
            await reload(broker, "configuration reloaded")
            async with await WsClient.connect((host, int(port)), target, tls=second) as new:
                await _subscribes(new, "workflow:1")
            certificate.write_text("no certificate")
            assert "tls_certificate" in await reload(broker, "not reloaded")
            async with await WsClient.connect((host, int(port)), target, tls=second) as new:
                await _subscribes(new, "workflow:2")
            await _subscribes(old, "workflow:3")


@attrs.frozen(eq=False)
class Site:
    """A broker in this process that can be told to reload, and what it told the service manager."""

    whole: Whole
    manager: socket.socket
    reloader: Reloader

    def told(self) -> list[str]:
        """What has come since the last time."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.manager.recv(4096).decode())
        return found


@contextlib.asynccontextmanager
async def reloading(valkey: Valkey, folder: Path, reread: Callable[[], Config] | None) -> AsyncIterator[Site]:
    """Run a broker for the length of the block."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(folder / "notify"))
        manager.setblocking(False)
        async with whole_broker(valkey.url, Config()) as whole:
            notifier = Notifier(str(folder / "notify"))
            yield Site(whole, manager, Reloader(whole.broker, notifier, reread, lambda: "serving"))


def as_it_was(valkey: Valkey, **sections: Any) -> Config:
    """The configuration of such a broker, but for some sections."""
    return attrs.evolve(Config(), **{"redis": Redis(url=valkey.url), "admin": Admin(bind=""), **sections})


async def test_what_is_said_of_a_reload(valkey: Valkey, tmp_path: Path) -> None:
    """The service manager is told of its beginning and its end, and people of what it has changed and what not."""
    new = as_it_was(valkey, redis=Redis(url=valkey.url, prefix="other"), events=Events(ping_interval=7))
    async with reloading(valkey, tmp_path, lambda: new) as site:
        asked = trio.Event()
        with capture_logs() as logs:
            async with trio.open_nursery() as nursery:

                async def ask() -> None:
                    if asked.is_set():
                        nursery.cancel_scope.cancel()
                    asked.set()
                    await trio.lowlevel.checkpoint()

                nursery.start_soon(site.reloader.run, ask)
        begun, ended = site.told()
        assert begun.startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert ended == "READY=1\nSTATUS=serving; a restart is needed for redis.prefix"
        assert [line["changed"] for line in logs if line["event"] == "configuration reloaded"] == [
            ["events.ping_interval"]
        ]
        config = site.whole.broker.config
        assert (config.redis.prefix, config.events.ping_interval) == ("", 7)


async def test_a_reload_that_is_refused_is_one_line(valkey: Valkey, tmp_path: Path) -> None:
    """A line break in a complaint would be another assignment to the service manager."""

    def wrong() -> Config:
        raise ConfigError([Problem("redis.url", "is\nSTOPPING=1")])

    async with reloading(valkey, tmp_path, wrong) as site:
        assert site.reloader.reload() == "serving; reload refused: redis.url: is STOPPING=1"


async def test_nothing_to_reload(valkey: Valkey, tmp_path: Path) -> None:
    """Without a configuration a reload changes nothing, and says so."""
    async with reloading(valkey, tmp_path, None) as site:
        with capture_logs() as logs:
            assert site.reloader.reload() == "serving"
    assert "not reloaded: there is no configuration to read" in [line["event"] for line in logs]


async def test_the_level_of_the_log(valkey: Valkey, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It changes with a reload."""
    observe.configure(format="json")
    async with reloading(valkey, tmp_path, lambda: as_it_was(valkey, log=Log(level="error"))) as site:
        try:
            site.reloader.reload()
            capsys.readouterr()
            observe.get_logger().warning("unheard")
            observe.get_logger().error("heard")
            assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["heard"]
        finally:
            observe.set_level("info")
            structlog.reset_defaults()


def test_the_guide_names_what_waits_for_a_restart() -> None:
    """docs/restarts.md lists the settings that a reload does not change, all of them and no others."""
    guide = Path(__file__).parents[2].joinpath("docs/restarts.md").read_text()
    (listed,) = re.findall(r"(?s)wait for a restart: (.*?)\.\sFiles", guide)
    assert set(re.findall(r"`(.*?)`", listed)) == NEEDS_RESTART


async def _subscribes(client: WsClient, channel: str) -> None:
    await client.send_json(type="subscribe", channel=channel)
    assert (await client.receive_json())["type"] == "subscribed"


def _issue(certificate: Path, key: Path) -> ssl.SSLContext:
    """Write a new certificate from a new authority, and return a client's context that trusts nothing else."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def _add_key(config: Path) -> str:
    command = [sys.executable, "-m", "broker", "keys", "add", "--org", "acme", "--json", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return str(json.loads(done.stdout)["api_key"])
