"""A broker that brings its own store: `make run`, and an installation on one machine."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, Signals

import attrs
import pytest

from tests.conftest import Valkey
from tests.e2e.broker import AGENT, Agent, Installation
from tests.e2e.program import PATIENCE, Program, children, environment, gone
from tests.support.process import INTERRUPTIBLE

Measured = Callable[[str, float], None]

ROOT = Path(__file__).parents[2]

README = ROOT / "README.md"


def python(program: str) -> list[str]:
    """Return the command that runs a program as `.venv/bin/python` of a checkout does."""
    return ["env", f"PYTHONPATH={ROOT}", sys.executable, "-c", program]


@attrs.frozen
class Checkout:
    """A directory as `make run` leaves it, in which the printed commands can be run, and the user's private one."""

    folder: Path
    runtime: Path

    @property
    def environ(self) -> dict[str, str]:
        """What the user's shell has in its environment."""
        return {
            "XDG_RUNTIME_DIR": str(self.runtime),
            "SIGNALBOX_SERVER__BIND": "127.0.0.1:0",
            "SIGNALBOX_ADMIN__BIND": "127.0.0.1:0",
            "HOME": str(self.folder),
        }

    def serve(self, **more: str) -> Program:
        """Do what `make run` does, in the foreground of a terminal of its own, with more in its environment."""
        command = [".venv/bin/signalbox", "serve", "--dev"]
        return Program(command, {**self.environ, **more}, self.folder, own_group=True, covered=True)

    def type(self, command: str) -> str:
        """Type a command into the user's shell and return what it prints."""
        environ = environment(self.environ)
        done = subprocess.run(
            ["sh", "-c", command], cwd=self.folder, env=environ, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    """Return such a directory."""
    program = tmp_path / ".venv/bin/signalbox"
    program.parent.mkdir(parents=True)
    python = shlex.join([*INTERRUPTIBLE, sys.executable])
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {python} -m broker "$@"\n')
    program.chmod(0o755)
    runtime = Path(tempfile.mkdtemp(prefix="signalbox-e2e-"))
    yield Checkout(tmp_path, runtime)
    left = list(runtime.iterdir())
    shutil.rmtree(runtime)
    assert not left


def greeting(broker: Program) -> str:
    """Wait until a dev broker has said all that it says at its start, and return that."""
    broker.find(broker.err, lambda line: "Ctrl-C ends it" in line or None)
    return "\n".join(broker.err)


def interrupt(broker: Program, how: Signals = SIGINT) -> int:
    """Press ctrl-C, or close the terminal, which all of its processes hear of, and return the exit status."""
    os.killpg(broker.pid, how)
    return broker.wait()


def refused(second: Program, directory: Path) -> None:
    """Insist that a broker gives up with one sentence about the directory that another one uses."""
    assert second.wait() == 1
    (sentence,) = second.err
    assert sentence.startswith(f"signalbox: {directory}")


def store_of(pid: int) -> int:
    """Return the process id of the store that a broker has started."""
    (store,) = [child for child, command in children(pid).items() if "valkey" in command]
    return store


def test_make_run(checkout: Checkout) -> None:
    """What `serve --dev` prints works as printed, a second one is refused, and ctrl-C leaves no process and no file."""
    before = set(checkout.folder.rglob("*"))
    with checkout.serve() as broker, ExitStack() as stack:
        said = greeting(broker)
        second = stack.enter_context(checkout.serve())
        tail, publish, kill, status = re.findall(r"(?m)^ +(\.venv/bin/signalbox .*)$", said)
        agent_call = re.search(r'api_key="(\S+)",\s+secret_key="(\S+)",\s+api_url="(\S+)"', said)
        assert agent_call is not None
        agent_args = [sys.executable, str(AGENT), *agent_call.groups(), "demo"]
        with (
            Program(["sh", "-c", f"exec {tail}"], checkout.environ, checkout.folder) as tailing,
            Program(agent_args, checkout.environ) as agent_program,
        ):
            tailing.find(tailing.err, lambda line: "listening on workflow:demo" in line or None)
            checkout.type(publish)
            tailing.find(tailing.out, lambda line: '"running"' in line or None)
            agent = Agent(agent_program)
            agent.next("runs")
            assert "1 of 1 agent confirmed" in checkout.type(kill)
            assert agent.next("killed")["reason"] == "trying it out"
            assert re.search(r"demo\s+Killed", checkout.type(status))
            assert agent.end() == []
            (example,) = re.findall(r"(?s)```python\n(from broker.*?)```", README.read_text())
            (redis,) = re.findall(r"(?m)^ +redis +(\S+)$", said)
            checkout.type(shlex.join(python(re.sub(r'"unix://.*"', f'"{redis}"', example))))
            tailing.find(tailing.out, lambda line: '"success"' in line or None)
            assert tailing.stop(SIGINT) == 0
        refused(second, checkout.runtime)
        store = store_of(broker.pid)
        assert interrupt(broker) == 0
        assert gone(store)
    assert not any("Traceback" in line for line in broker.err)
    assert {path for path in checkout.folder.rglob("*") if "nullrun" not in str(path)} == before


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a clone")
def test_make_run_on_a_fresh_clone(checkout: Checkout, tmp_path: Path, measured: Measured) -> None:
    """In an empty environment a clone is up within a minute (plus the download), and its commands work as printed."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    began = time.monotonic()
    environ = {"PATH": os.environ["PATH"], **checkout.environ}
    bare = ["env", "-i", *(f"{name}={value}" for name, value in environ.items())]
    with Program([*bare, "make", "run"], cwd=clone, own_group=True) as broker:
        broker.find(broker.err, lambda line: "Ctrl-C ends it" in line or None, timeout=240)
        measured("make run on a fresh clone, downloads included", (time.monotonic() - began) * 1000)
        for command in re.findall(r"(?m)^ +(\.venv/bin/signalbox (?!tail).*)$", greeting(broker)):
            subprocess.run([*bare, "sh", "-c", command], cwd=clone, check=True, stdout=subprocess.DEVNULL)
        interrupt(broker)
        assert not any("Traceback" in line for line in broker.err)


def test_killed_dev_broker(checkout: Checkout) -> None:
    """Kill -9 of the broker ends its store, too, and the next `make run` starts as if nothing had been."""
    with checkout.serve() as broker:
        greeting(broker)
        store = store_of(broker.pid)
        broker.stop(SIGKILL)
        assert gone(store)
    with checkout.serve() as broker:
        greeting(broker)
        assert interrupt(broker) == 0


def test_closed_terminal(checkout: Checkout) -> None:
    """A dev broker whose terminal is closed ends as by ctrl-C."""
    with checkout.serve() as broker:
        greeting(broker)
        store = store_of(broker.pid)
        assert interrupt(broker, SIGHUP) == 0
        assert gone(store)


def test_dev_broker_beside_another_store(checkout: Checkout, valkey: Valkey) -> None:
    """A dev broker has its own store and leaves no key in the one that the environment names for publishers."""
    with checkout.serve(SIGNALBOX_REDIS__URL=valkey.url, SIGNALBOX_REDIS__PREFIX="x:") as broker:
        (redis,) = re.findall(r"(?m)^ +redis +(\S+)$", greeting(broker))
        assert redis.startswith(f"unix://{checkout.runtime}/")
        assert "dev" in checkout.type(".venv/bin/signalbox keys list --dev")
        assert interrupt(broker) == 0
    assert valkey.client.dbsize() == 0


def test_killed_dev_store(checkout: Checkout) -> None:
    """Kill -9 of the store is healed: it is started again, sockets go on, and the printed key opens new ones."""
    with checkout.serve() as broker:
        tail, publish, *_ = re.findall(r"(?m)^ +(\.venv/bin/signalbox .*)$", greeting(broker))
        with Program(["sh", "-c", f"exec {tail}"], checkout.environ, checkout.folder) as tailing:
            tailing.find(tailing.err, lambda line: "listening on workflow:demo" in line or None)
            store = store_of(broker.pid)
            os.kill(store, SIGKILL)
            assert gone(store)
            tailing.find(tailing.err, lambda line: "events may be missing" in line or None)
            checkout.type(publish)
            tailing.find(tailing.out, lambda line: '"running"' in line or None)
            assert store_of(broker.pid) != store
        broker.find(broker.err, lambda line: "the dev key was put back" in line or None)
        with Program(["sh", "-c", f"exec {tail}"], checkout.environ, checkout.folder) as newcomer:
            newcomer.find(newcomer.err, lambda line: "listening on workflow:demo" in line or None)
        assert interrupt(broker) == 0


@pytest.mark.timeout(120)  # every write waits for the disk, three starts among them
def test_state_outlives_the_broker(tmp_path: Path) -> None:
    """With a data directory, which is one broker's, keys and decisions outlast it, however it ended."""
    site = Installation.write(tmp_path, redis={"url": "embedded", "data_dir": str(tmp_path / "data")})
    with site.serve() as broker, site.start("serve") as second:
        key = site.add_key("acme", "wf")
        site.run("pause", "acme", "wf", "--reason", "over night")
        refused(second, tmp_path / "data")
        store = store_of(broker.program.pid)
        assert broker.program.stop() == 0
        assert gone(store)
    with site.serve() as broker:
        with site.agent(key, broker.url) as agent:
            assert agent.next("runs", "paused")["reason"] == "over night"
            site.run("kill", "acme", "wf", "--reason", "for good", "--wait", "10")
            assert agent.next("killed")["reason"] == "for good"
            assert agent.end() == []
        store = store_of(broker.program.pid)
        broker.program.stop(SIGKILL)
        assert gone(store)
    with site.serve() as broker, site.agent(key, broker.url) as agent:
        assert agent.next("connected")["states"] == {"wf": "Killed"}
        assert agent.end() == []
        assert broker.program.stop() == 0
