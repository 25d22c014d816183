"""A control session outlives the process that opened it: same socket, nothing lost, nothing told twice without need."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from wsproto.events import TextMessage

from broker.daemon import parcel
from broker.publisher import Publisher
from broker.store.drive import run_sync
from broker.store.key_record import hash_of
from broker.store.keys import add_key, lookup_key, revoke_key
from broker.store.layout import Layout
from broker.store.presence import PresentSession, read_presence
from broker.store.receipts import is_complete, read_receipt, unreported
from tests.conftest import Valkey
from tests.control.clients import eventually
from tests.e2e.broker import Agent
from tests.e2e.program import Program
from tests.support.service_manager import ServiceManager, service_manager
from tests.support.ws_client import Closed, WsClient

AGENT = Path(__file__).parent.parent / "e2e" / "agent.py"


@attrs.define(eq=False)
class Service:
    """A broker under a service manager, that can be restarted."""

    manager: ServiceManager
    config: Path
    listener: socket.socket
    process: "subprocess.Popen[bytes]"

    async def stop(self) -> None:
        """End the process in order."""
        self.process.send_signal(signal.SIGTERM)
        with trio.fail_after(20):
            assert await trio.to_thread.run_sync(self.process.wait) == 0

    async def start(self) -> None:
        """Start a process and wait until it is ready."""
        self.manager.heard.clear()
        self.process = self.manager.start(self.config, self.listener)
        await self.manager.wait_for("READY=1")

    async def restart(self) -> None:
        """Do both."""
        await self.stop()
        await self.start()

    async def connect(self, api_key: str, **headers: str) -> WsClient:
        """Open a control session."""
        return await WsClient.connect(
            self.listener.getsockname(), "/ws/control/acme", {"X-API-Key": api_key, **headers}, patience=15
        )


@pytest.fixture
async def service(valkey: Valkey, tmp_path: Path) -> AsyncIterator[Service]:
    """A running service; its process is gone afterwards."""
    async with running_service(valkey, tmp_path) as found:
        yield found


@asynccontextmanager
async def running_service(valkey: Valkey, folder: Path) -> AsyncIterator[Service]:
    """Run a service on this store for the length of the block."""
    config = folder / "signalbox.toml"
    config.write_text(
        f"""
[server]
drain_timeout = 3
[redis]
url = "{valkey.url}"
[control]
handshake_signature = "optional"
ping_interval = 3600
ack_timeout = 60
[admin]
bind = ""
"""
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with service_manager(folder) as manager:
            found = Service(manager, config, listener, manager.start(config, listener))
            try:
                await manager.wait_for("READY=1")
                yield found
            finally:
                found.process.kill()
                found.process.wait()


@pytest.fixture
def publisher(valkey: Valkey) -> Publisher:
    """Publishes what an operator decides."""
    return Publisher(valkey.client)


@pytest.fixture
def api_key(valkey: Valkey) -> str:
    """A key of org acme."""
    return run_sync(valkey.client, add_key(Layout(""), "acme")).api_key


async def message(client: WsClient, kind: str) -> Any:
    """The next message of this type."""
    return await client.receive_type(kind)


async def test_a_kill_after_the_restart(service: Service, publisher: Publisher, api_key: str) -> None:
    """The socket stays open over a restart, gets a fresh snapshot, and then a kill, to which its ack counts."""
    async with await service.connect(api_key) as client:
        await message(client, "initial_state")
        await service.restart()
        assert (await message(client, "initial_state"))["workflows"] == []
        publisher.kill("acme", "wf", reason="after the restart")
        change = await message(client, "state_change")
        assert (change["state"], change["reason"]) == ("Killed", "after the restart")
        await client.send_json(type="ack", message_id=change["message_id"], received_at=1)
        assert service.manager.kept == {}


@pytest.mark.parametrize("agents", [1, 0])
async def test_kills_that_were_heard(service: Service, valkey: Valkey, api_key: str, agents: int) -> None:
    """Plain kills that the broker heard before its end are applied by it, whether sessions are handed over or not."""
    async with AsyncExitStack() as clients:
        for _ in range(agents):
            client = await clients.enter_async_context(await service.connect(api_key))
            await message(client, "initial_state")
        pipeline = valkey.client.pipeline(transaction=False)
        for number in range(500):
            kill = {"type": "state_change", "workflow_id": f"wf{number}", "state": "killed"}
            pipeline.publish("control:acme", json.dumps(kill))
        heard = await trio.to_thread.run_sync(pipeline.execute)
        await service.stop()
        assert valkey.client.hlen(Layout("").workflows("acme")) == sum(heard) == 500
        await service.start()


async def test_twice(service: Service, publisher: Publisher, api_key: str) -> None:
    """A session can be handed over again and again."""
    async with await service.connect(api_key) as client:
        for _ in range(2):
            await message(client, "initial_state")
            await service.restart()
        publisher.kill("acme", "wf")
        assert (await message(client, "state_change"))["state"] == "Killed"


async def test_the_real_sdk(service: Service, publisher: Publisher, valkey: Valkey) -> None:
    """An agent on the real SDK lives through two hasty restarts without complaint; then it is killed."""
    key = run_sync(valkey.client, add_key(Layout(""), "acme", workflow_id="wf"))
    host, port = service.listener.getsockname()
    arguments = [key.api_key, key.record.secret_key or "", f"http://{host}:{port}", "wf"]
    with Program([sys.executable, AGENT, *arguments]) as program:
        agent = Agent(program)
        await trio.to_thread.run_sync(agent.next, "runs")
        for _ in range(2):
            await service.restart()
        publisher.kill("acme", "wf", reason="after two restarts")
        killed = await trio.to_thread.run_sync(agent.next, "killed")
        assert killed["reason"] == "after two restarts"
        assert await trio.to_thread.run_sync(agent.end) == []
        assert len([line for line in agent.log() if "connected" in line.lower()]) <= 2


async def test_what_happened_in_between(service: Service, publisher: Publisher, api_key: str) -> None:
    """What was decided while no process ran arrives with the snapshot, and approvals as messages, once each."""
    async with await service.connect(api_key) as client:
        await message(client, "initial_state")
        publisher.approval_resolved("acme", "a1", "wf", "e1", "approved")
        assert (await message(client, "approval_resolved"))["approval_id"] == "a1"
        await service.stop()
        publisher.approval_resolved("acme", "a2", "wf", "e1", "denied")
        publisher.kill("acme", "wf", reason="meanwhile")
        await service.start()
        workflows = (await message(client, "initial_state"))["workflows"]
        assert [(each["workflow_id"], each["state"]) for each in workflows] == [("wf", "Killed")]
        assert (await message(client, "approval_resolved"))["approval_id"] == "a2"
        assert (await message(client, "state_change"))["state"] == "Killed"


async def test_an_agent_that_no_process_has(service: Service, publisher: Publisher, valkey: Valkey) -> None:
    """Whoever kills between two processes is told of the agent, and of its receipt as soon as the next one has it."""
    async with _between_two_processes(service, valkey) as (client, agent):
        assert agent.presence.workflow_id == "wf"
        killed = publisher.kill("acme", "wf").message_id
        assert not _is_complete(valkey, killed)
        await service.start()
        await message(client, "state_change")
        await client.send_json(type="ack", message_id=killed, received_at=int(time.time()))
        await eventually(lambda: _is_complete(valkey, killed))
        [same] = _present(valkey)
        assert (same.session_id, same.broker_id != agent.broker_id) == (agent.session_id, True)


async def test_an_agent_that_leaves_the_next_process(service: Service, valkey: Valkey) -> None:
    """It is gone, and does not count as connected to the process before that one."""
    async with _between_two_processes(service, valkey) as (_, agent):
        await service.start()
        await eventually(lambda: _present(valkey)[0].broker_id != agent.broker_id)
    await eventually(lambda: not _present(valkey))


async def test_a_message_in_pieces(service: Service, publisher: Publisher, api_key: str) -> None:
    """The first half of a client's message was read by one process, the second half by the next: it is one message."""
    async with await service.connect(api_key) as client:
        await message(client, "initial_state")
        data = client._ws.send(_text(json.dumps({"type": "ping"})))
        await client.send_raw(data[:9])
        await service.restart()
        await message(client, "initial_state")
        await client.send_raw(data[9:])
        assert await message(client, "pong") == {"type": "pong"}


async def test_an_ack_that_is_late(service: Service, publisher: Publisher, api_key: str, valkey: Valkey) -> None:
    """A kill that one process has sent can be acknowledged to the next: the receipt shows it."""
    async with await service.connect(api_key) as client:
        await message(client, "initial_state")
        publisher.kill("acme", "wf")
        change = await message(client, "state_change")
        await service.restart()
        await client.send_json(type="ack", message_id=change["message_id"], received_at=1)
        await eventually(lambda: b"confirmed" in _receipt(valkey, change["message_id"]), 10)
        assert b"gone" not in _receipt(valkey, change["message_id"])


async def test_a_receipt_that_is_waited_for(
    service: Service, publisher: Publisher, api_key: str, valkey: Valkey
) -> None:
    """Who waits for a kill across a restart is not kept waiting: the next process reports for the agents it took up."""
    async with await service.connect(api_key) as client:
        await message(client, "initial_state")
        killed = publisher.kill("acme", "wf").message_id
        await message(client, "state_change")
        await service.restart()
        await message(client, "state_change")  # asked for again: the ack is waited for there
        await client.send_json(type="ack", message_id=killed, received_at=int(time.time()))
        await eventually(lambda: _is_complete(valkey, killed), 10)


async def test_a_client_that_does_not_read(service: Service, publisher: Publisher, api_key: str) -> None:
    """Bytes that the kernel had no room for travel along: the stream of frames goes on without a gap."""
    async with await service.connect(api_key) as client:
        await message(client, "initial_state")
        for number in range(300):
            publisher.pause("acme", f"wf-{number}", reason="x" * 2000)
        await service.restart()
        publisher.kill("acme", "last")
        seen = set()
        while "last" not in seen:
            change = json.loads(await client.receive())
            if change["type"] == "state_change":
                seen.add(change["workflow_id"])
        assert len(seen) > 100


async def test_without_a_store(service: Service, api_key: str) -> None:
    """A service manager that keeps nothing is found out, and the session is closed with 1012."""
    service.manager.keeps = False
    async with await service.connect(api_key) as client:
        await message(client, "initial_state")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.stop)
            assert (await client.wait_closed()).code == 1012


async def test_state_of_another_version(service: Service, api_key: str) -> None:
    """What another version has left is closed with 1012, and nothing else is touched by it."""
    async with await service.connect(api_key) as client:
        await message(client, "initial_state")
        await service.stop()
        service.manager.kept["handover"] = [_relabelled(service.manager.kept["handover"].pop())]
        await service.start()
        closed: Closed = await client.wait_closed()
        assert (closed.code, closed.reason) == (1012, "restarting")
    async with await service.connect(api_key) as another:
        await message(another, "initial_state")


async def test_a_revoked_key(service: Service, publisher: Publisher, api_key: str, valkey: Valkey) -> None:
    """A key that was revoked while no process ran ends its session as soon as the next one runs."""
    async with await service.connect(api_key) as client:
        await message(client, "initial_state")
        await service.stop()
        record = run_sync(valkey.client, lookup_key(Layout(""), hash_of(api_key)))
        assert record is not None
        run_sync(valkey.client, revoke_key(Layout(""), record.key_id))
        await service.start()
        assert (await client.wait_closed()).code == 4401


def _relabelled(channel: int) -> int:
    """Return a channel with the same parcels under another version; the old one is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with socket.socket(fileno=channel) as old, ours:
        while (found := parcel.receive(old)) is not None:
            text, descriptors = found
            greeting, _, count = text.split()
            socket.send_fds(ours, [b"%b 999 %b" % (greeting, count)], descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
    return theirs.detach()


def _text(text: str) -> Any:
    return TextMessage(data=text)


@asynccontextmanager
async def _between_two_processes(service: Service, valkey: Valkey) -> AsyncIterator[tuple[WsClient, PresentSession]]:
    """Connect an agent of the workflow "wf", and end the process that has it; also returns what is on record of it."""
    made = run_sync(valkey.client, add_key(Layout(""), "acme", workflow_id="wf"))
    async with await service.connect(made.api_key) as client:
        await message(client, "initial_state")
        await eventually(lambda: _present(valkey))
        await service.stop()
        [agent] = _present(valkey)
        yield client, agent


def _present(valkey: Valkey) -> tuple[PresentSession, ...]:
    return run_sync(valkey.client, read_presence(Layout(""), "acme"))


def _is_complete(valkey: Valkey, message_id: str) -> bool:
    present = _present(valkey)
    receipt = run_sync(valkey.client, read_receipt(Layout(""), "acme", message_id))
    assert receipt is not None
    return bool(present) and is_complete(receipt, unreported(receipt, present), 10.0)


def _receipt(valkey: Valkey, message_id: str) -> bytes:
    found = valkey.client.hgetall(f"signalbox:{{acme}}:receipts:{message_id}")
    return repr(found).encode()
