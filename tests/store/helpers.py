"""Short forms that the store's tests share."""

import contextlib
from collections.abc import Iterator
from typing import Any, TypeVar

from broker.store.applied import Applied
from broker.store.apply import Claimant, apply, claim
from broker.store.drive import run_sync
from broker.store.layout import Layout
from broker.store.limits import LogLimits
from broker.store.request import Command, Operation, Pause
from protocol.codec import decode_control_input
from protocol.control import StateChangeInput
from protocol.states import State
from tests.conftest import Valkey

T = TypeVar("T")
LAYOUT = Layout()
ORG = "acme"


def done(valkey: Valkey, operation: Operation[T]) -> T:
    """Run an operation on the server."""
    return run_sync(valkey.client, operation)


def change(valkey: Valkey, state: State, *, workflow: str = "wf", force: bool = False, **fields: Any) -> Applied:
    """Change a workflow's state as the operator "ops"."""
    message = StateChangeInput(workflow_id=workflow, state=state, **fields)
    return done(valkey, apply(LAYOUT, ORG, message, actor="ops", force=force))


def with_key(valkey: Valkey) -> None:
    """Give the organization a key, so that plain publications to it count."""
    valkey.client.sadd(LAYOUT.org_keys(ORG), "0" * 64)


def heard_by(
    valkey: Valkey,
    payload: bytes,
    broker: str,
    since_ms: int = 0,
    serial: int | None = None,
    heard_ms: int | None = None,
    after_ms: int | None = None,
    limits: LogLimits | None = None,
    generation: int = 1,
) -> Applied:
    """Hand in a plain publication as a broker that has listened since ``since_ms`` and heard it at ``heard_ms``.

    It was published at ``after_ms`` or later. That is the broker's subscription number ``generation``.
    """
    message = decode_control_input(payload)
    claimant = Claimant(broker, generation, since_ms)
    operation = claim(
        LAYOUT, ORG, message, payload, claimant, serial=serial, heard_ms=heard_ms, after_ms=after_ms, limits=limits
    )
    return done(valkey, operation)


def stopped_after(valkey: Valkey, operation: Operation[object], steps: int) -> None:
    """Run an operation's first requests and then no more, as if its program had died."""
    request = next(operation)
    for _ in range(steps):
        assert not isinstance(request, Pause)
        words = request.args if isinstance(request, Command) else request.eval()
        request = operation.send(valkey.client.execute_command(*words))  # type: ignore[no-untyped-call]
    operation.close()


@contextlib.contextmanager
def out_of_memory(valkey: Valkey) -> Iterator[None]:
    """Let the server refuse whatever needs memory."""
    valkey.client.config_set("maxmemory", "1")
    try:
        yield
    finally:
        valkey.client.config_set("maxmemory", "0")


def now_ms(valkey: Valkey) -> int:
    """The server's clock."""
    seconds, micros = valkey.client.time()
    return int(seconds) * 1000 + int(micros) // 1000


def tick(valkey: Valkey) -> int:
    """Wait for the server's clock to show the next millisecond, and return it."""
    start = now_ms(valkey)
    while (now := now_ms(valkey)) == start:
        pass
    return now
