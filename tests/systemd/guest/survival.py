"""Control sessions that outlive their process."""

import trio

from tests.support.ws_client import WsClient
from tests.systemd.guest.machine import (
    ADDRESS,
    SERVICE,
    SOCKET,
    add_key,
    drop_in,
    journal,
    main_pid,
    prop,
    signalbox,
    systemctl,
)

RESTARTS = 3

THIRD_TIME = "cd /var/lib/signalbox; n=$$(cat tries || echo 0); echo $$((n + 1)) >tries; [ $$n -ge 2 ]"


async def check_session_lives_through_restarts() -> str:
    """A control session stays open over `systemctl restart`, again and again, and then is killed on the same socket."""
    await systemctl("start", SOCKET, SERVICE)
    key = await add_key()
    gaps = []
    client = await WsClient.connect(ADDRESS, "/ws/control/acme", {"X-API-Key": key["api_key"]}, patience=20)
    async with client:
        await client.receive_type("initial_state")
        for _ in range(RESTARTS):
            before = await main_pid()
            began = trio.current_time()
            await systemctl("restart", SERVICE)
            await client.receive_type("initial_state")
            gaps.append(trio.current_time() - began)
            assert await main_pid() != before
        await signalbox("kill", "acme", "wf", "--reason", "after the restarts")
        change = await client.receive_type("state_change")
        assert (change["state"], change["reason"]) == ("Killed", "after the restarts")
        await client.send_json(type="ack", message_id=change["message_id"], received_at=change["updated_at"])
        assert await prop("NFileDescriptorStore") == "0", "the service manager still has a copy"
    return f"a fresh snapshot {max(gaps):.2f} s after the restart was asked for, at the most"


async def check_session_lives_through_a_crash_of_the_next_process() -> None:
    """A process that dies before it has taken the sessions up leaves them to the one after it."""
    await systemctl("start", SOCKET, SERVICE)
    key = await add_key()
    client = await WsClient.connect(ADDRESS, "/ws/control/acme", {"X-API-Key": key["api_key"]}, patience=30)
    async with client:
        await client.receive_type("initial_state")
        # The start fails twice, after the old process has gone; the third succeeds.
        await drop_in(f"[Service]\nExecStartPre=/bin/sh -c '{THIRD_TIME}'\n")
        await systemctl("restart", SERVICE, check=False)
        await client.receive_type("initial_state")
        await signalbox("kill", "acme", "wf")
        assert (await client.receive_type("state_change"))["state"] == "Killed"


async def check_without_a_descriptor_store() -> None:
    """Where the service manager keeps nothing, the session is closed with 1012, as the journal says."""
    await drop_in("[Service]\nFileDescriptorStoreMax=0\n")
    await systemctl("start", SOCKET, SERVICE)
    key = await add_key()
    client = await WsClient.connect(ADDRESS, "/ws/control/acme", {"X-API-Key": key["api_key"]}, patience=20)
    async with client, trio.open_nursery() as nursery:
        await client.receive_type("initial_state")
        nursery.start_soon(systemctl, "restart", SERVICE)
        assert (await client.wait_closed()).code == 1012
    assert any("cannot be handed over" in line for line in await journal())
