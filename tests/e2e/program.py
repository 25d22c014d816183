"""A program that a test runs as a child, and what it has said so far."""

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from signal import SIGTERM, Signals
from types import TracebackType
from typing import IO, TypeVar

T = TypeVar("T")

PATIENCE = 20.0
"""Seconds that anything may take on a machine that is busy with other things."""


def environment(more: Mapping[str, str] | None = None, covered: bool = False) -> dict[str, str]:
    """Return the environment of a child: ours, and more.

    Unless it is to be `covered`, its coverage is not measured: that takes time, which some of these tests measure.
    """
    ours = {name: value for name, value in os.environ.items() if covered or not name.startswith("COVERAGE_")}
    return {**ours, "PYTHONUNBUFFERED": "1", **(more or {})}


class Program:
    """A child process whose output is read as it comes, so that it never stands still because nobody reads.

    Use it as a context manager: at the end of the block it is killed if it still runs.

    Attributes:
        out, err: the lines that it has written, without their ends.
    """

    def __init__(
        self,
        args: Sequence[str | Path],
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        own_group: bool = False,
        covered: bool = False,
    ) -> None:
        self.out: list[str] = []
        self.err: list[str] = []
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            list(args),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd=cwd,
            env=environment(environ, covered),
            start_new_session=own_group,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(self._process.stdout, self.out), daemon=True),
            threading.Thread(target=self._read, args=(self._process.stderr, self.err), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: IO[str], lines: list[str]) -> None:
        for line in stream:
            with self._news:
                lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def __enter__(self) -> "Program":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if error is not None:
            print(f"--- {self._process.args!r}", *self.err[-60:], "---", sep="\n", file=sys.stderr)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def find(self, lines: list[str], wanted: Callable[[str], T | None], timeout: float = PATIENCE, since: int = 0) -> T:
        """Wait for a line for which `wanted` gives something else than None, and return that.

        Args:
            lines: `out` or `err` of this program.
            wanted: is asked about every line once.
            timeout: in seconds; AssertionError says what came instead.
            since: how many lines to skip.
        """
        deadline = time.monotonic() + timeout
        with self._news:
            while True:
                while since < len(lines):
                    since += 1
                    if (found := wanted(lines[since - 1])) is not None:
                        return found
                left = deadline - time.monotonic()
                over = not any(reader.is_alive() for reader in self._readers)
                if left <= 0 or over:
                    raise AssertionError(
                        "\n".join(
                            [f"{'it ended' if over else 'nothing'} in {timeout} s:", *self.out[-20:], *self.err[-40:]]
                        )
                    )
                self._news.wait(min(left, 0.5))

    def send(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def end_input(self) -> None:
        """Close its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def signal(self, which: Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(which)

    def stop(self, which: Signals = SIGTERM, timeout: float = PATIENCE) -> int:
        """Send a signal, wait for the end and the rest of the output, and return the exit status."""
        self.signal(which)
        return self.wait(timeout)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for its end and the rest of its output, and return the exit status."""
        status = self._process.wait(timeout)
        self._finish()
        return status

    def kill(self) -> None:
        """End it at once, if it still runs, and take the rest of its output."""
        self._process.kill()
        self._process.wait()
        self._finish()

    def _finish(self) -> None:
        for reader in self._readers:
            reader.join(PATIENCE)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None and not stream.closed:
                stream.close()


def gone(pid: int, timeout: float = PATIENCE) -> bool:
    """Wait for the end of a process that is no child of ours, and say whether it came."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], timeout)[0])
    finally:
        os.close(handle)


def children(pid: int) -> dict[int, str]:
    """Return the processes that a process has started, with their command lines."""
    found: dict[int, str] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found[int(child)] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ").strip()
    return found
