"""When it goes wrong: hung, killed, or unable to start."""

from pathlib import Path

import trio

from tests.support.ws_client import WsClient
from tests.systemd.guest.machine import (
    ADDRESS,
    SERVICE,
    add_key,
    configure,
    drop_in,
    http_get,
    journal,
    main_pid,
    prop,
    said,
    signalbox,
    systemctl,
    until,
)

HANGING = """
import signal, sys
def hang(*_):
    while True:
        pass
signal.signal(signal.SIGUSR1, hang)
from broker.cli import main
sys.exit(main())
"""


async def check_watchdog() -> str:
    """A loop that hangs is killed by the watchdog, says where it hung, and a new process serves."""
    Path("/usr/local/lib/hanging.py").write_text(HANGING)
    await drop_in(
        "[Service]\nWatchdogSec=2\nExecStart=\nExecStart=/opt/signalbox/bin/python /usr/local/lib/hanging.py serve\n"
    )
    await systemctl("start", SERVICE)
    before = await main_pid()
    await trio.sleep(4.5)
    assert await main_pid() == before, "killed although its loop turned"
    began = trio.current_time()
    await systemctl("kill", "--kill-whom=main", "-s", "USR1", SERVICE)

    async def another() -> bool:
        return await main_pid() not in (0, before) and await prop("ActiveState") == "active"

    await until("another process is active", another)
    took = trio.current_time() - began
    assert (await http_get("/health/live"))[0] == 200
    log = "\n".join(await journal())
    assert "Watchdog timeout" in log
    assert "in hang" in log, "no traceback of the hang in the journal"
    return f"recovered {took:.1f} s after the loop hung"


async def check_kill_9() -> str:
    """After kill -9 a new process has the state that the old one confirmed."""
    await systemctl("start", SERVICE)
    key = await add_key()
    await signalbox("kill", "acme", "wf", "--reason", "before the crash")
    before = await main_pid()
    began = trio.current_time()
    await systemctl("kill", "--kill-whom=main", "-s", "KILL", SERVICE)

    async def another() -> bool:
        return await main_pid() not in (0, before) and await prop("ActiveState") == "active"

    await until("another process is active", another)
    took = trio.current_time() - began
    async with await WsClient.connect(ADDRESS, "/ws/control/acme", {"X-API-Key": key["api_key"]}) as client:
        workflows = (await client.receive_type("initial_state"))["workflows"]
    assert [(each["workflow_id"], each["state"]) for each in workflows] == [("wf", "Killed")]
    return f"back after {took:.2f} s"


async def check_start_limit() -> str:
    """A broker that cannot start is tried again a number of times, given up, and started again once that is mended."""
    await configure("[server]\nbind = 7\n")
    await systemctl("start", SERVICE, check=False)

    async def given_up() -> bool:
        return await prop("Result") == "start-limit-hit" or await said("Start request repeated too quickly")

    await until("systemd gives up", given_up, 90)
    tries = int(await prop("NRestarts"))
    assert await said("server.bind"), "the journal does not say what is wrong"
    assert await prop("ActiveState") == "failed"
    await configure("")
    await systemctl("reset-failed", SERVICE)
    await systemctl("start", SERVICE)
    assert (await http_get("/health/live"))[0] == 200
    return f"given up after {tries} restarts"
