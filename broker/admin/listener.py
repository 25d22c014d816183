"""The admin listener: its socket and its connections."""

import socket
from collections.abc import Sequence
from functools import partial

import attrs
import trio

from broker.admin.reception import Reception
from broker.admin.services import AdminServices
from broker.config import Config
from broker.config.bind import is_local
from broker.http import ConnectionOver, Conversation, HttpBounds, describe_listener, listen
from broker.http.acceptor import accept_forever
from broker.http.gate import Entry, Gate
from broker.observe import Counters, Repeated
from broker.wire.plain import PlainWire, WireBroken, describe_address

__all__ = ["AdminListener"]

MAX_CONNECTIONS = 64
"""Connections to the admin listener at one time; further ones wait in the kernel's queue.

From half of it on none is kept for another request: idle ones would keep an operator out.
"""

IDLE_SECONDS = 75.0
"""Longer than scrapers wait between two scrapes, so that they keep their connection."""

RETRY_SECONDS = 5.0
"""Between two tries to listen on an address that is taken."""

SOCKET_MODE = 0o660
BODY_SPARE = 4096
"""Bytes that a request to publish may be longer than what it publishes."""


class AdminListener:
    """Listens on `admin.bind`, if that is set.

    Args:
        services: what it shows and changes.

    Attributes:
        address: where it listens, for the log and for tests; "" while it does not.
        inherited: listening sockets to be served instead of `admin.bind`, and closed; set before `run`.
    """

    def __init__(self, services: AdminServices) -> None:
        self._services = services
        self._say = Repeated(services.log)
        self._traffic = Counters()  # of this listener, apart from that of the public port
        self._gate = Gate(MAX_CONNECTIONS)
        self._reception = Reception(services, self._traffic)
        self.address = ""
        self.inherited: Sequence[socket.socket] = ()

    def reconfigure(self, config: Config) -> None:
        """Go by this configuration from now on; another `admin.bind` wants a restart."""
        self._services.config = config

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started after the first try to listen.

        A broker does not fail for want of its metrics, as agents that lose it do not come back: an address that is
        taken is complained about, and tried again.
        """
        async with trio.open_nursery() as parts:
            if self.inherited or self._services.config.admin.bind:
                await parts.start(self._serve)
            task_status.started()

    async def _serve(self, task_status: trio.TaskStatus[None]) -> None:
        listeners = self.inherited or self._listen()
        self._announce(listeners)
        task_status.started()
        while not listeners:
            await trio.sleep(RETRY_SECONDS)
            listeners = self._listen()
            self._announce(listeners)
        try:
            async with trio.open_nursery() as connections:
                take = partial(self._take, connections)
                for listener in listeners:
                    connections.start_soon(accept_forever, listener, self._gate, take, self._traffic, self._say)
        finally:
            for listener in listeners:
                listener.close()

    def _listen(self) -> Sequence[socket.socket]:
        bind = self._services.config.admin.bind
        try:
            return (listen(bind, SOCKET_MODE),)
        except OSError as error:
            why = error.strerror or str(error)
            self._say.error("listen", "the admin listener cannot open: trying again", on=bind, error=why)
            return ()

    def _announce(self, listeners: Sequence[socket.socket]) -> None:
        if listeners:
            self.address = describe_listener(listeners[0])
            where = [describe_listener(listener) for listener in listeners]
            log, is_open = self._services.log, self._reception.is_open
            log.info("admin listening", on=where, operator_api=is_open)
            if is_open and not all(map(is_local, where)):
                log.warning("the operator API listens beyond this machine, without TLS: put a proxy in front", on=where)

    def _take(self, connections: trio.Nursery, raw: socket.socket, address: object) -> None:
        connections.start_soon(self._converse, raw, address, self._gate.enter())

    async def _converse(self, raw: socket.socket, address: object, entry: Entry) -> None:
        """Answer the requests of one connection; nothing that it does or meets gets any further than this."""
        wire: PlainWire | None = None
        try:
            wire = PlainWire(raw, describe_address(address))
            bounds = self._bounds()
            conversation = Conversation(wire, bounds)
            deadline = trio.current_time() + bounds.handshake_timeout
            keep = True
            while keep:
                answer = await self._reception.answer(conversation, deadline, wire.remote)
                keep = await conversation.answer(answer, keep=not self._gate.is_crowded)
            await conversation.linger()
        except (WireBroken, ConnectionOver):
            pass
        except Exception:
            self._services.log.exception("an admin connection ended with an error of ours")
        finally:
            entry.leave()
            if wire is not None:
                wire.close()
            raw.close()

    def _bounds(self) -> HttpBounds:
        config = self._services.config
        body = max(config.limits.max_body_bytes, config.limits.max_publication_bytes + BODY_SPARE)
        return attrs.evolve(HttpBounds.of(config), max_body_bytes=body, idle_timeout=IDLE_SECONDS)
