"""The echo endpoint: for conformance tests, and nowhere else."""

import attrs
import pytest
from wsproto.extensions import PerMessageDeflate

from broker.config import Config, Debug, Events
from broker.daemon.startup import refuse_exposed_echo
from broker.link.errors import StartupError
from tests.door.conftest import Site
from tests.support import RawClient, Rejected, WsClient

ECHO = Config(debug=Debug("/debug/echo"))


async def test_there_is_none_unless_it_is_configured(site: Site) -> None:
    """By default the path is nothing at all."""
    with pytest.raises(Rejected) as refused:
        await site.websocket("/debug/echo")
    assert refused.value.status == 404


@pytest.mark.parametrize("config", [ECHO])
async def test_it_echoes_without_a_key(site: Site) -> None:
    """Text and binary messages come back; the connection takes a place, and gives it back."""
    async with await site.websocket("/debug/echo") as client:
        for message in ("héllo", b"\xff\x00", "", "x" * 60_000):
            await client.send(message)
            assert await client.receive() == message
        assert site.door.state.slots.taken == 1
        assert (await client.close(4123)).code == 4123
    async with await RawClient.connect(site.address) as plain:
        assert (await plain.request("GET", "/debug/echo")).status == 404
    with pytest.raises(Rejected):
        await site.websocket("/debug/echo/")


@pytest.mark.parametrize("config", [attrs.evolve(ECHO, events=Events(compression=True))])
async def test_it_is_compressed_for_those_who_offer(site: Site) -> None:
    """What is agreed on is used in both directions."""
    extension = PerMessageDeflate()
    async with await WsClient.connect(site.address, "/debug/echo", extensions=[extension]) as client:
        assert extension.enabled()
        for message in ("again" * 5000, b"\x00" * 60_000, ""):
            await client.send(message)
            assert await client.receive() == message
    async with await site.websocket("/debug/echo") as plain:
        await plain.send("plain")
        assert await plain.receive() == "plain"


@pytest.mark.parametrize("where", ["0.0.0.0:80", "[::]:80", "192.0.2.1:80"])
def test_a_broker_in_service_does_not_start_with_it_where_others_could_reach_it(where: str) -> None:
    """Inherited sockets may be anywhere, whatever `server.bind` says: what they are bound to counts."""
    refuse_exposed_echo(ECHO, ["127.0.0.1:80", "[::1]:80", "unix:/run/s"])
    refuse_exposed_echo(Config(), [where])
    with pytest.raises(StartupError, match=r"debug\.echo_path"):
        refuse_exposed_echo(ECHO, ["127.0.0.1:80", where])
