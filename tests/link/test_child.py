"""Children that cannot outlive their parent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import trio

from broker.link.child import Child
from tests.link.servers import eventually
from tests.link.test_embedded import alive

PARENT = """
import sys, time
from pathlib import Path
from broker.link.child import Child

child = Child(["/bin/sleep", "600"], Path(sys.argv[1]), (), guard=sys.argv[2] == "guard")
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["kernel", "guard"])
async def test_parent_killed(how: str, tmp_path: Path) -> None:
    """Kill -9 of the parent ends the child, by the kernel's death signal and by the guard for systems without it."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, tmp_path / "log", how],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.kill()
    parent.communicate()
    await eventually(lambda: not alive(pid), "the end of the child")


@pytest.mark.parametrize("guard", [False, True])
async def test_stop(guard: bool, tmp_path: Path) -> None:
    """A child that ignores SIGTERM is killed when its grace is over."""
    child = Child(
        ["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"], tmp_path / "log", (), guard=guard
    )
    await eventually((tmp_path / "log").read_text)
    assert child.returncode is None
    await child.stop(grace=0.01)
    assert child.returncode == -9


async def test_exit_status_and_output(tmp_path: Path) -> None:
    """Its output is in the log, and its exit status is told."""
    child = Child(["/bin/sh", "-c", "echo out; echo err >&2; exit 7"], tmp_path / "log", ())
    with trio.fail_after(20):
        assert await child.wait() == 7
    assert (tmp_path / "log").read_text() == "out\nerr\n"
    await child.stop(grace=1)
