"""A new configuration for a running broker."""

from tests.support.ws_client import WsClient
from tests.systemd.guest.machine import (
    ADDRESS,
    BASE_CONFIG,
    SERVICE,
    SOCKET,
    add_key,
    configure,
    journal,
    main_pid,
    prop,
    said,
    systemctl,
    until,
)


async def check_reload_good() -> None:
    """`systemctl reload` brings new settings to an open connection, in the same process."""
    await systemctl("start", SOCKET, SERVICE)
    key = await add_key()
    before = await main_pid()
    async with await WsClient.connect(ADDRESS, f"/ws/?token={key['api_key']}") as client:
        await client.send_json(type="subscribe", channel="order:1")
        assert (await client.receive_json())["type"] == "error"
        await configure(BASE_CONFIG + '[events]\nnamespaces = ["order"]\n[log]\nlevel = "debug"\n')
        await systemctl("reload", SERVICE)
        await until("the journal says so", lambda: said("configuration reloaded"))
        await client.send_json(type="subscribe", channel="order:1")
        assert (await client.receive_json())["type"] == "subscribed"
    assert await main_pid() == before
    assert await prop("StatusText") == "serving"


async def check_reload_broken() -> None:
    """A broken file makes the reload fail, names the mistakes, and changes nothing, asked for either way."""
    await systemctl("start", SOCKET, SERVICE)
    key = await add_key()
    before = await main_pid()
    async with await WsClient.connect(ADDRESS, f"/ws/?token={key['api_key']}") as client:
        await configure("[events]\nnamespaces = 7\n[limits]\nmax_conections = 5\n")
        told = await systemctl("reload", SERVICE, check=False)
        assert "failed" in told, told
        await until("the journal names the mistake", lambda: said("limits.max_conections"))
        assert not await said("configuration reloaded")
        await systemctl("kill", "--kill-whom=main", "-s", "HUP", SERVICE)  # past the check that the unit makes
        await until("the broker refuses too", lambda: said("not reloaded"))
        assert "events.namespaces" in await prop("StatusText")
        await client.send_json(type="subscribe", channel="workflow:1")
        assert (await client.receive_json())["type"] == "subscribed"
    assert await main_pid() == before
    assert await prop("ActiveState") == "active"


async def check_reload_names_what_needs_a_restart() -> None:
    """A setting that cannot change in a running process is named, in the journal and in the status."""
    await systemctl("start", SERVICE)
    await configure(BASE_CONFIG + '[admin]\nbind = "127.0.0.1:8799"\n')
    await systemctl("reload", SERVICE)
    await until("the journal says so", lambda: said("a restart is needed"))
    assert "admin.bind" in await prop("StatusText")
    assert "admin.bind" in "\n".join(await journal())
