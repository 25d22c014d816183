"""A broker as an operator runs it: a process of its own, started by the command line."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

INTERRUPTIBLE = (
    sys.executable,
    "-ISc",
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])",
)
"""Before the command of a child that is to be interrupted: what a script runs in the background ignores SIGINT."""


@attrs.frozen
class BrokerProcess:
    """A running `signalbox serve`: where it listens, as host:port, and its log so far."""

    process: "subprocess.Popen[str]"
    where: str
    log: list[str]

    @property
    def url(self) -> str:
        """The base URL that SDKs are given."""
        return f"http://{self.where}"

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout: float = 20) -> int:
        """Send a signal, read the rest of the log, and return the exit status."""
        self.process.send_signal(how)
        assert self.process.stderr is not None
        self.log.extend(self.process.stderr)
        return self.process.wait(timeout)


@contextmanager
def broker_process(config: Path, **environ: str) -> Iterator[BrokerProcess]:
    """Run a broker with this configuration until the end of the block; yields when it listens.

    Give it `server.bind = "127.0.0.1:0"`, so that it finds a port that is free.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "broker", "serve", "--config", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "SIGNALBOX_LOG__FORMAT": "json", **environ},
    )
    log: list[str] = []
    try:
        yield BrokerProcess(process, _listening(process, log), log)
    finally:
        process.kill()
        process.communicate()


def _listening(process: "subprocess.Popen[str]", log: list[str]) -> str:
    """Read the log until it says where the broker listens."""
    assert process.stderr is not None
    for line in process.stderr:
        log.append(line)
        record = json.loads(line) if line.startswith("{") else {}
        if record.get("event") == "listening":
            return str(record["on"][0])
    raise AssertionError("the broker did not start:\n" + "".join(log))
