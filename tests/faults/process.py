"""A broker of a run: a child process that is started again whenever it ends, as a service manager does."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import trio

from tests.faults.waiting import until

PATIENCE = 30.0

CONFIG = """
[server]
bind = "127.0.0.1:{port}"
drain_timeout = 2
io_uring_from = {io_uring_from}
[redis]
url = "redis://127.0.0.1:{redis}"
[control]
ack_timeout = 0.2
ack_attempts = 2
ping_interval = 1
[events]
history = {{workflow = {{size = 100000, ttl = 3600}}}}
[limits]
outbox_bytes = {outbox}
max_publication_bytes = 65536
close_timeout = 1
[admin]
bind = ""
[log]
format = "json"
"""


class BrokerChild:
    """One broker.

    Attributes:
        name: in reports.
        port: where it listens, on loopback.
        lives: how often it was started.
        crashes: exits that nobody asked for, with their status.
    """

    def __init__(
        self, name: str, folder: Path, port: int, redis_port: int, outbox: int = 65536, io_uring_from: int = 1
    ) -> None:
        self.name = name
        self.port = port
        self.lives = 0
        self.crashes: list[int] = []
        self.log = folder / f"{name}.log"
        self._config = folder / f"{name}.toml"
        self._config.write_text(CONFIG.format(port=port, redis=redis_port, outbox=outbox, io_uring_from=io_uring_from))
        self._process: subprocess.Popen[bytes] | None = None
        self._held = False
        self._expected = False
        self._ended = trio.Event()
        self._go = trio.Event()

    @property
    def config(self) -> Path:
        """Its configuration file, for commands."""
        return self._config

    @property
    def up(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    async def run(self) -> None:
        """Keep it running, until cancelled; then kill it."""
        try:
            while True:
                while self._held:
                    self._go = trio.Event()
                    await self._go.wait()
                self._expected = False
                self._start()
                assert self._process is not None
                status = await trio.to_thread.run_sync(self._process.wait, abandon_on_cancel=True)
                if not self._expected:
                    self.crashes.append(status)
                    await trio.sleep(0.2)
        finally:
            if self._process is not None:
                self._process.kill()
                self._process.wait()

    async def listening(self) -> None:
        """Wait until it accepts connections."""
        with trio.fail_after(PATIENCE):
            await until(self._accepts)

    async def _accepts(self) -> bool:
        if not self.up:
            return False
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        except OSError:
            return False
        await trio.aclose_forcefully(stream)
        return True

    def end(self, how: signal.Signals) -> None:
        """End it by a signal, and do not start it again before `allow`."""
        self._held = self._expected = True
        self._signal(how)

    def allow(self) -> None:
        """Let it be started again."""
        self._held = False
        self._go.set()

    def stop(self) -> None:
        """Suspend it."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Wake it."""
        self._signal(signal.SIGCONT)

    def _signal(self, which: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(which)

    def _start(self) -> None:
        self.lives += 1
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "broker", "serve", "--config", str(self._config)],
                stdout=log,
                stderr=log,
                env={**os.environ, "COVERAGE_PROCESS_START": ""},
            )
