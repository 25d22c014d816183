"""Where the admin listener listens."""

import socket
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from broker.admin import listener
from broker.admin.listener import MAX_CONNECTIONS
from tests.admin.site import TOKEN, Site, running_site
from tests.conftest import Valkey
from tests.support import RawClient


async def test_an_address_that_is_taken(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker runs without its admin listener, says so once, and opens it as soon as the address is free."""
    monkeypatch.setattr(listener, "RETRY_SECONDS", 0.02)
    with socket.create_server(("127.0.0.1", 0)) as taken, capture_logs() as logs:
        host, port = taken.getsockname()
        async with running_site(valkey, None, bind=f"{host}:{port}") as site:
            async with await RawClient.connect(site.public) as client:
                assert (await client.request("GET", "/health/ready")).status == 200
            assert site.broker.admin.address == ""
            taken.close()
            while not site.broker.admin.address:
                async with await RawClient.connect(site.public) as client:
                    await client.request("GET", "/health/live")
            async with await RawClient.connect((host, port)) as client:
                assert (await client.request("GET", "/metrics")).status == 200
    complaints = [line for line in logs if line["log_level"] == "error"]
    assert [line["error"] for line in complaints] == ["Address already in use"]


async def test_an_address_that_is_none(valkey: Valkey) -> None:
    """What the resolver has against an address is said in its own words."""
    with capture_logs() as logs:
        async with running_site(valkey, None, bind="[fe80::1%nowhere]:0"):
            pass
    (complaint,) = [line for line in logs if line["log_level"] == "error"]
    assert (complaint["on"], complaint["error"]) == ("[fe80::1%nowhere]:0", "Name or service not known")


async def test_inherited_sockets(valkey: Valkey) -> None:
    """Sockets from the service manager are served instead of admin.bind."""
    given = socket.create_server(("127.0.0.1", 0))
    given.setblocking(False)
    async with running_site(valkey, None, bind="", inherited=(given,)) as site:
        assert site.admin == given.getsockname()
        assert (await site.metrics())["signalbox_ready"] == 1
    assert given.fileno() == -1


async def test_turned_off(valkey: Valkey) -> None:
    """An empty admin.bind means no listener."""
    async with running_site(valkey, None, bind="") as site:
        assert site.broker.admin.address == ""


async def test_on_a_unix_socket(valkey: Valkey, tmp_path: Path, token_file: Path) -> None:
    """It can listen on a unix socket, which only its owner and group may use."""
    path = tmp_path / "admin.sock"
    async with running_site(valkey, token_file, bind=f"unix:{path}"):
        assert path.stat().st_mode & 0o777 == 0o660
        async with await RawClient.connect(str(path)) as client:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            assert (await client.request("GET", "/status", headers)).json["ready"] is True


async def test_idle_connections_keep_no_operator_out(site: Site) -> None:
    """However many have asked for something and stay, the next one is answered at once."""
    idle = [await RawClient.connect(site.admin) for _ in range(MAX_CONNECTIONS)]
    for client in idle:
        assert (await client.request("GET", "/status")).status == 401
    with trio.fail_after(5):
        assert (await site.ask("GET", "/status")).status == 200
    for client in idle:
        await client.aclose()
