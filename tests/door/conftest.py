"""A door that really listens, on loopback and on a unix socket, with a small application behind it."""

import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import attrs
import pytest
import trio

from broker.config import Config, Control, Limits
from broker.door import Door, DoorServices, Readiness
from broker.http import HttpBounds, listen
from broker.keys import Admission, KeysUnavailable
from broker.observe import Counters, get_logger
from broker.store.key_record import KeyRecord
from broker.wire.passes import Passes
from broker.wire.peer import Peer
from broker.wire.turnstile import Turnstile
from protocol.frames import text_frame
from tests.support import RawClient, WsClient

NOW = 1_700_000_000
SECRET = "5e" * 32

KEYS = {
    "nr_live_good": KeyRecord(hash="1", key_id="k1", organization_id="acme", secret_key=SECRET, signature="optional"),
    "nr_live_signed": KeyRecord(hash="2", key_id="k2", organization_id="acme", secret_key=SECRET),
    "nr_live_strict": KeyRecord(hash="5", key_id="k5", organization_id="acme", secret_key=SECRET, signature="required"),
    "nr_live_other": KeyRecord(hash="3", key_id="k3", organization_id="umbrella", signature="optional"),
    "nr_live_expired": KeyRecord(hash="4", key_id="k4", organization_id="acme", expires_at=NOW - 1),
}


@attrs.define
class Ledger:
    """The keys that there are; `away` plays a store that does not answer."""

    away: bool = False
    asked: int = 0
    remembered: set[str] = attrs.field(factory=set)
    unused: dict[str, str] = attrs.field(factory=dict)
    lifetime: int = 30

    async def lookup(self, api_key: str) -> KeyRecord | None:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        if self.away:
            raise KeysUnavailable
        return KEYS.get(api_key)

    def recall(self, api_key: str) -> KeyRecord | None:
        return KEYS.get(api_key) if api_key in self.remembered else None

    async def make(self, record: KeyRecord) -> str:
        await trio.lowlevel.checkpoint()
        ticket = f"tkt_{len(self.unused)}"
        self.unused[ticket] = record.key_id
        return ticket

    async def take(self, ticket: str) -> KeyRecord | None:
        await trio.lowlevel.checkpoint()
        if self.away:
            raise KeysUnavailable
        key_id = self.unused.pop(ticket, "")
        return next((key for key in KEYS.values() if key.key_id == key_id), None)


class Workflows:
    """REST answers that tell what they were asked."""

    def auth_verify(self, admission: Admission) -> tuple[int, Mapping[str, object]]:
        return 200, {"key_id": admission.record.key_id, "signed": admission.secret is not None}

    async def workflow_status(self, organization_id: str, workflow_id: str) -> tuple[int, Mapping[str, object]]:
        return 200, {"organization_id": organization_id, "workflow_id": workflow_id}

    async def org_status(self, organization_id: str) -> tuple[int, Mapping[str, object]]:
        return 200, {"organization_id": organization_id, "workflows": []}


@attrs.define
class Application:
    """Echoing sessions: an event socket says its key id first, a control socket its key and organization."""

    crash: bool = False

    async def events(self, peer: Peer, key: KeyRecord) -> None:
        await self._echo(peer, f"events {key.key_id}")

    async def control(self, peer: Peer, key: KeyRecord, api_key: str, org_id: str, secret: str | None) -> None:
        await self._echo(peer, f"control {key.key_id} {api_key} {org_id} {secret is not None}")

    async def _echo(self, peer: Peer, greeting: str) -> None:
        if self.crash:
            raise RuntimeError("a bug")

        async def send_back(message: str | bytes) -> None:
            assert isinstance(message, str)
            peer.send(text_frame(message.encode()))

        async with trio.open_nursery() as tasks:
            peer.start(tasks)
            peer.send(text_frame(greeting.encode()))
            await peer.listen(send_back)
            tasks.cancel_scope.cancel()


async def let_through(turnstile: Turnstile, crowd: int, at_once: int) -> None:
    """Wait until a crowd waits at a turnstile that is shut, and see it let through at most so many in a pass."""
    with trio.fail_after(30):
        while (waiting := turnstile.waiting) < crowd:
            await trio.lowlevel.checkpoint()
        turnstile.at_once = at_once
        while waiting:
            await trio.lowlevel.checkpoint()
            assert waiting - turnstile.waiting <= 2 * at_once  # those of two passes
            waiting = turnstile.waiting


@attrs.define(eq=False)
class Site:
    """A running door, and what is behind it."""

    door: Door
    services: DoorServices
    ledger: Ledger
    application: Application
    address: tuple[str, int]
    path: str
    problems: list[str]

    async def raw(self) -> RawClient:
        return await RawClient.connect(self.address)

    async def websocket(self, target: str, **headers: str) -> WsClient:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await WsClient.connect(self.address, target, named)


BOUNDS = HttpBounds(
    max_head_bytes=4096,
    max_body_bytes=1024,
    handshake_timeout=5.0,
    idle_timeout=5.0,
    max_requests=20,
    linger=0.5,
)


@pytest.fixture
def bounds() -> HttpBounds:
    """The bounds of the door; a test overrides them by parametrizing this."""
    return BOUNDS


@pytest.fixture
def config() -> Config:
    """The configuration; a test overrides it by parametrizing this."""
    return Config(
        control=Control(upgrade_hold=0.5),
        limits=Limits(max_connections=10, max_connections_per_key=4, close_timeout=1.0, max_message_bytes=1024),
    )


@pytest.fixture
async def site(nursery: trio.Nursery, bounds: HttpBounds, config: Config) -> AsyncIterator[Site]:
    """A door on 127.0.0.1 and on a unix socket."""
    ledger, application = Ledger(), Application()
    problems: list[str] = []
    services = DoorServices(
        config=config,
        keys=ledger,
        tickets=ledger,
        counters=Counters(),
        ready=lambda: Readiness(tuple(problems)),
        event_session=application.events,
        control_session=application.control,
        rest=Workflows(),
        passes=Passes(),
        clock=lambda: NOW,
        log=get_logger(),
    )
    door = Door(services, bounds=bounds)
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "door.sock")
        tcp, unix = listen("127.0.0.1:0"), listen(f"unix:{path}")
        await nursery.start(services.passes.run)
        await nursery.start(door.run, [tcp, unix])
        yield Site(door, services, ledger, application, tcp.getsockname(), path, problems)
        door.stop_accepting()
        nursery.cancel_scope.cancel()
        tcp.close()
        unix.close()
