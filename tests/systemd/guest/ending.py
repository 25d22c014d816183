"""Stopping: every client is told, in order, and in time."""

import trio

from tests.support.ws_client import Closed, WsClient
from tests.systemd.guest.machine import (
    ADDRESS,
    SERVICE,
    SOCKET,
    add_key,
    drop_in,
    http_get,
    main_pid,
    prop,
    said,
    systemctl,
    until,
)

BROWSERS = 40


async def check_drain_with_real_closes() -> str:
    """While it drains the broker says so to health checks, closes every browser with 1012, one by one, and exits."""
    await systemctl("start", SOCKET, SERVICE)
    key = await add_key()
    browsers = [await WsClient.connect(ADDRESS, f"/ws/?token={key['api_key']}") for _ in range(BROWSERS)]
    closes: list[tuple[float, Closed]] = []
    ready_while_draining: list[int] = []

    async def watch(client: WsClient) -> None:
        closed = await client.wait_closed()
        closes.append((trio.current_time(), closed))

    async def ask() -> None:
        await until("half of the browsers are closed", lambda: len(closes) >= BROWSERS // 2)
        ready_while_draining.append((await http_get("/health/ready"))[0])

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for client in browsers:
            nursery.start_soon(watch, client)
        nursery.start_soon(ask)
        nursery.start_soon(lambda: systemctl("stop", SOCKET, SERVICE))
    took = trio.current_time() - began
    assert {(each.code, each.reason) for _, each in closes} == {(1012, "restarting")}
    assert ready_while_draining == [503]
    assert await prop("Result") == "success"
    spread = max(at for at, _ in closes) - min(at for at, _ in closes)
    assert spread > BROWSERS * 0.002, spread
    for client in browsers:
        await client.kill()
    return f"{BROWSERS} closes over {spread:.2f} s, stopped after {took:.2f} s"


async def check_deaf_client_delays_nobody() -> str:
    """A client that does not answer its close does not hold the end up past the deadline; the exit is clean."""
    await systemctl("start", SOCKET, SERVICE)
    key = await add_key()
    client = await WsClient.connect(ADDRESS, f"/ws/?token={key['api_key']}")
    began = trio.current_time()
    await systemctl("stop", SOCKET, SERVICE)
    took = trio.current_time() - began
    await client.kill()
    assert took < 8, took
    assert await prop("Result") == "success"
    return f"stopped after {took:.1f} s"


async def check_second_signal_ends_at_once() -> str:
    """A second SIGTERM cuts the drain short."""
    await drop_in("[Service]\nEnvironment=SIGNALBOX_SERVER__DRAIN_TIMEOUT=25\nRestart=no\n")
    await systemctl("start", SERVICE)
    key = await add_key()
    clients = [await WsClient.connect(ADDRESS, f"/ws/?token={key['api_key']}") for _ in range(300)]
    await systemctl("kill", "--kill-whom=main", "-s", "TERM", SERVICE)
    await until("the drain has begun", lambda: said("stopping"))
    began = trio.current_time()
    await systemctl("kill", "--kill-whom=main", "-s", "TERM", SERVICE)

    async def gone() -> bool:
        return await main_pid() == 0

    await until("the process is gone", gone, 5)
    for client in clients:
        await client.kill()
    assert await prop("Result") == "success"
    return f"gone after {trio.current_time() - began:.2f} s"
