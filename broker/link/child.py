"""A child process that cannot outlive this one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

# Runs in the child, before the program takes its place: argv is our process id, then the program and its arguments.
# A second interpreter for 20 ms rather than a preexec_fn, which may deadlock when there are other threads.
_TIE = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):  # else it died before the line above
    try:
        os.execv(sys.argv[2], sys.argv[2:])
    except OSError as error:
        sys.exit(f"{sys.argv[2]} cannot be run: {error.strerror}")
"""
_POLL = 0.02
# Where the kernel cannot tie lifetimes together, a shell waits for the end of a pipe that only this process holds.
_GUARD = 'trap "" HUP INT TERM; read -r _; kill -9 "$1" 2>/dev/null'


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class Child:
    """A running program: in a session of its own, so that a terminal's ctrl-C is ours to answer, and tied to us.

    It is started from the thread that runs Trio and not from a worker thread, since the kernel's death signal (Linux)
    is sent when the *thread* that forked ends.
    """

    def __init__(self, args: Sequence[str | Path], log: Path, inherit: Sequence[int], *, guard: bool | None = None):
        """Start it, with its output in `log` and the descriptors `inherit` open.

        `args` begins with the path of the program; if that cannot be run, OSError is raised or the log says so.
        `guard` chooses the shell guard over the kernel's death signal; by default it is used where that is missing.
        """
        self._guard_pipe: int | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        use_guard = sys.platform != "linux" if guard is None else guard
        if not use_guard:
            args = [sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid()), *args]
        with open(log, "wb", opener=_private) as output:
            self._process = subprocess.Popen(
                args,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=tuple(inherit),
                umask=0o077,
            )
        if use_guard:
            self._start_guard()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    async def wait(self) -> int:
        """Wait for its end and return the exit status."""
        while (status := self._process.poll()) is None:
            try:
                pidfd = os.pidfd_open(self._process.pid)
            except (AttributeError, OSError):  # not Linux, or forbidden by a sandbox
                await trio.sleep(_POLL)
                continue
            try:
                await trio.lowlevel.wait_readable(pidfd)
            finally:
                os.close(pidfd)
        self._end_guard()
        return status

    async def stop(self, grace: float) -> None:
        """SIGTERM, `grace` seconds to comply, then SIGKILL; returns when it is gone, also when cancelled."""
        with trio.CancelScope(shield=True):
            if grace > 0:
                self._process.terminate()
                with trio.move_on_after(grace):
                    await self.wait()
            if self._process.poll() is None:
                self._process.kill()
            await self.wait()

    def _start_guard(self) -> None:
        ours_to_hold, self._guard_pipe = os.pipe()
        try:
            self._guard = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, "sh", str(self._process.pid)],
                stdin=ours_to_hold,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            os.close(ours_to_hold)

    def _end_guard(self) -> None:
        if self._guard is not None and self._guard_pipe is not None:
            self._guard.kill()
            self._guard.wait()
            os.close(self._guard_pipe)
            self._guard = self._guard_pipe = None
