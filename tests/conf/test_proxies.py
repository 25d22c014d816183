"""The proxies of conf/ in front of a real broker: TLS, both sockets, REST, reloads, and what they write down."""

import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
import trustme

from broker.publisher import Publisher
from tests.admin.site import ORG, Site, running_site
from tests.conftest import Valkey
from tests.support import RawClient, WsClient

CONF = Path(__file__).parents[2] / "conf"
OLDEST_CADDY = (2, 7)


@attrs.frozen
class Proxy:
    """A running proxy: where it listens, how to make it read its configuration again, and where its log is."""

    address: tuple[str, int]
    reload: Callable[[], None]
    log: Path


def free_port() -> int:
    """A port of the loopback interface that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def fill_in(text: str, **replacements: tuple[str, str]) -> str:
    """Replace what an example wants replaced; each piece must be there."""
    for old, new in replacements.values():
        assert old in text, old
        text = text.replace(old, new)
    return text


@contextmanager
def running(command: list[str], port: int, **options: object) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a proxy for the length of the block, from the moment when it accepts connections."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload]
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, process.stderr.read().decode()
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)


def find_nginx() -> str:
    """Where nginx is; skips the test if it is nowhere."""
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        pytest.skip("nginx is not installed: apt-get install nginx-light")
    return program


def find_caddy() -> str:
    """Where Caddy is; skips the test if it is nowhere, or too old."""
    program = shutil.which("caddy")
    if program is None:
        pytest.skip("caddy is not installed: https://caddyserver.com/docs/install")
    version = subprocess.run([program, "version"], capture_output=True, text=True, check=True).stdout
    if tuple(map(int, version.lstrip("v").split()[0].split(".")[:2])) < OLDEST_CADDY:
        pytest.skip(f"caddy {version.strip()} is older than the example is for")
    return program


@contextmanager
def nginx(program: str, folder: Path, upstream: int, certificate: Path, key: Path) -> Iterator[Proxy]:
    """conf/nginx.conf, included as Debian's nginx includes sites."""
    port, log = free_port(), folder / "access.log"
    text = (CONF / "nginx.conf").read_text()
    site = folder / "site.conf"
    site.write_text(
        fill_in(
            text,
            v6=("    listen [::]:443 ssl so_keepalive=30s:10s:3;\n", ""),
            listen=("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
            upstream=("server 127.0.0.1:8765", f"server 127.0.0.1:{upstream}"),
            certificate=("/etc/letsencrypt/live/signalbox.example.com/fullchain.pem", str(certificate)),
            key=("/etc/letsencrypt/live/signalbox.example.com/privkey.pem", str(key)),
            log=("/var/log/nginx/signalbox.log", str(log)),
        )
    )
    temporary = "".join(
        f"    {name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = folder / "nginx.conf"
    main.write_text(
        f"pid {folder}/nginx.pid;\nerror_log {folder}/error.log;\ndaemon off;\n"
        f"events {{ worker_connections 256; }}\nhttp {{\n{temporary}    include {site};\n}}\n"
    )
    folder.chmod(0o755)
    with running([program, "-e", str(folder / "early.log"), "-c", str(main)], port) as process:
        yield Proxy(("127.0.0.1", port), lambda: process.send_signal(signal.SIGHUP), log)
    assert "emerg" not in (folder / "error.log").read_text()


@contextmanager
def caddy(program: str, folder: Path, upstream: int, certificate: Path, key: Path) -> Iterator[Proxy]:
    """conf/Caddyfile, with a certificate of ours instead of one of its own making."""
    port, log = free_port(), folder / "access.log"
    file = folder / "Caddyfile"
    admin = f"unix/{folder}/caddy.sock"
    file.write_text(
        f"{{\n\tadmin {admin}\n\tauto_https disable_redirects\n}}\n"
        + fill_in(
            (CONF / "Caddyfile").read_text(),
            site=("signalbox.example.com {", f"https://localhost:{port} {{\n\ttls {certificate} {key}"),
            upstream=("127.0.0.1:8765 {", f"127.0.0.1:{upstream} {{"),
            log=("\tlog {\n", f"\tlog {{\n\t\toutput file {log}\n"),
        )
    )
    environ = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "PATH": "/usr/bin"}

    def reload() -> None:
        command = [program, "reload", "--force", "--adapter", "caddyfile", "--config", str(file), "--address", admin]
        subprocess.run(command, env=environ, capture_output=True, check=True, timeout=30)

    command = [program, "run", "--adapter", "caddyfile", "--config", str(file)]
    with running(command, port, env=environ) as _:
        yield Proxy(("127.0.0.1", port), reload, log)


Start = Callable[[Path, int, Path, Path], AbstractContextManager[Proxy]]


@pytest.fixture(params=["nginx", "caddy"])
def proxy(request: pytest.FixtureRequest) -> Start:
    """Each of the two proxies, if it is there."""
    return partial(nginx, find_nginx()) if request.param == "nginx" else partial(caddy, find_caddy())


async def test_a_proxy_in_front(proxy: Start, valkey: Valkey, tmp_path: Path) -> None:
    """Agents, browsers and REST calls pass through TLS, sessions live through a reload, and no key is written down."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "signalbox.example.com")
    certificate, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    issued.private_key_pem.write_to_path(str(key))
    for blob in issued.cert_chain_pems:
        blob.write_to_path(str(certificate), append=True)
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    async with running_site(valkey, None) as site:
        folder = tmp_path / "proxy"
        folder.mkdir()
        with proxy(folder, site.public[1], certificate, key) as running_proxy:
            await _talk(site, running_proxy, tls)


async def _talk(site: Site, proxy: Proxy, tls: ssl.SSLContext) -> None:
    agent_key, browser_key = site.key("wf"), site.key(name="browser")
    publisher = Publisher(site.valkey.client)
    async with await RawClient.connect(proxy.address, tls) as client:
        host = {"Host": f"localhost:{proxy.address[1]}", "X-API-Key": agent_key.api_key}
        reply = await client.request("GET", f"/api/v1/orgs/{ORG}/status", host)
        assert (reply.status, reply.json["workflows"]) == (200, [])
    agent = await WsClient.connect(
        proxy.address, f"/ws/control/{ORG}", {"X-API-Key": agent_key.api_key}, tls=tls, host="localhost"
    )
    browser = await WsClient.connect(proxy.address, f"/ws/?token={browser_key.api_key}", tls=tls, host="localhost")
    async with agent, browser:
        await agent.receive_type("initial_state")
        await browser.send_json(type="subscribe", channel="workflow:a")
        await browser.receive_type("subscribed")
        await trio.to_thread.run_sync(proxy.reload)
        message_id = publisher.kill(ORG, "wf").message_id
        assert (await agent.receive_type("state_change"))["message_id"] == message_id
        publisher.broadcast("workflow:a", "node_status", {"x": 1})
        await browser.receive_type("node_status")
    written = proxy.log.read_text()
    assert "/ws/" in written
    assert agent_key.api_key not in written
    assert browser_key.api_key not in written
