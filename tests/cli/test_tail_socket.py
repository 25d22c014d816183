"""The event socket of `signalbox tail --url`, to a broker that plays its part badly."""

import json

import pytest
import trio
import trio.testing
from trio_websocket import WebSocketConnection, WebSocketRequest, serve_websocket

from broker.cli.tail_socket import tail_events
from broker.cli.tailing import Printer


async def test_a_broker_that_has_vanished(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """A broker that says nothing more, not even a ping, is given up; whoever tails is told, and listens again."""
    began = trio.current_time()
    again = trio.Event()
    connections: list[float] = []

    async def vanish(request: WebSocketRequest) -> None:
        connections.append(trio.current_time() - began)
        websocket: WebSocketConnection = await request.accept()
        channel = json.loads(await websocket.get_message())["channel"]
        await websocket.send_message(json.dumps({"type": "subscribed", "channel": channel}))
        if len(connections) == 2:
            again.set()
        await trio.sleep_forever()

    server = await nursery.start(
        lambda task_status: serve_websocket(vanish, "127.0.0.1", 0, None, task_status=task_status)
    )
    url = f"ws://127.0.0.1:{server.port}"
    nursery.start_soon(tail_events, url, ["workflow:a"], "key", Printer(True))
    with trio.fail_after(600):
        await again.wait()
    assert 45 <= connections[1] <= 50
    assert "; trying again in 1 s\n" in capsys.readouterr().err
    nursery.cancel_scope.cancel()
