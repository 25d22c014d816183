"""Users, passwords, and what happens when they are wrong."""

from __future__ import annotations

import pytest
import redis.exceptions
import structlog
import trio

from broker.link.address import Address
from broker.link.errors import AuthenticationFailed, StartupError
from broker.link.link import Link
from tests.link.servers import Server, eventually

QUICK = (0.001, 0.01)


def address(server: Server, username: str | None = None, password: str | None = None, db: int = 0) -> Address:
    """Where the server is, for this user."""
    return Address(path=str(server.path), username=username, password=password, db=db)


async def test_password(nursery: trio.Nursery) -> None:
    """The default user's password opens a server with requirepass."""
    with Server("--requirepass", "pw") as server:
        link = Link(address(server, password="pw"), "test")
        await nursery.start(link.run)
        assert await link.call("PING") == b"PONG"


async def test_acl_user(server: Server, nursery: trio.Nursery) -> None:
    """An ACL user is logged in, and what it may not do raises NoPermissionError without harm."""
    server.command("ACL", "SETUSER", "app", "on", ">pw", "~app:*", "+@all", "-flushall")
    link = Link(address(server, "app", "pw"), "test")
    await nursery.start(link.run)
    assert await link.call("ACL", "WHOAMI") == b"app"
    with pytest.raises(redis.exceptions.NoPermissionError):
        await link.call("FLUSHALL")
    with pytest.raises(redis.exceptions.NoPermissionError):
        await link.call("GET", "other")
    assert await link.call("SET", "app:1", "x") == b"OK"


@pytest.mark.parametrize(("username", "password"), [(None, "wrong"), ("app", "wrong"), ("nobody", "p-w"), (None, None)])
async def test_wrong_credentials_are_fatal_at_start(username: str | None, password: str | None) -> None:
    """AuthenticationFailed comes out of the start itself, names the server and the user, and never the password."""
    with Server("--requirepass", "pw") as server:
        link = Link(address(server, username, password), "test")
        async with trio.open_nursery() as nursery:
            with pytest.raises(AuthenticationFailed, match=str(server.path)) as caught:
                await nursery.start(link.run)
    assert username is None or username in str(caught.value)
    assert password is None or password not in str(caught.value)


async def test_forbidden_database_is_fatal_at_start(server: Server) -> None:
    """A db that the server does not have is said at start."""
    link = Link(address(server, db=99), "test")
    async with trio.open_nursery() as nursery:
        with pytest.raises(StartupError, match="db 99"):
            await nursery.start(link.run)


async def test_credentials_withdrawn_later(server: Server, nursery: trio.Nursery) -> None:
    """Once it has been up, a refused link says so once, as an error, and comes back when it is let in again."""
    admin = server.client
    server.command("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all")
    link = Link(address(server, "app", "pw"), "test", backoff=QUICK, refused_backoff=QUICK)
    await nursery.start(link.run)
    with structlog.testing.capture_logs() as logs:
        server.command("ACL", "SETUSER", "app", "resetpass", ">other")
        server.command("CLIENT", "KILL", "USER", "app")
        refusals = admin.info("stats").get("acl_access_denied_auth", 0)

        def refused_often() -> bool:
            return int(admin.info("stats")["acl_access_denied_auth"]) >= int(refusals) + 5

        await eventually(refused_often)
        await eventually(lambda: "refuses user 'app'" in str(link.state.error))
        server.command("ACL", "SETUSER", "app", "resetpass", ">pw")
        with trio.fail_after(20):
            await link.wait_up()
    said = [line for line in logs if line["event"] == "link cannot connect"]
    assert [line["log_level"] for line in said] == ["error"]
    assert "pw" not in str(said)


async def test_server_without_hello(nursery: trio.Nursery) -> None:
    """A server from before RESP3 is refused by a sentence that says so."""

    async def talk(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n")
        await stream.receive_some()

    listeners = await nursery.start(trio.serve_tcp, talk, 0)
    link = Link(Address(host="127.0.0.1", port=listeners[0].socket.getsockname()[1]), "test")
    with pytest.raises(StartupError, match=r"too old.*6\.2"):
        await nursery.start(link.run)
