"""A broker as an operator runs it, the commands that go with it, and the agents and browsers that connect to it."""

import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from tests.e2e.program import PATIENCE, Program, environment
from tests.support import RawClient, WsClient

AGENT = Path(__file__).with_name("agent.py")

COMMAND = (sys.executable, "-m", "broker")


@attrs.frozen
class Key:
    """What `keys add` showed."""

    key_id: str
    organization_id: str
    api_key: str
    secret_key: str
    workflow_id: str | None


@attrs.frozen
class Installation:
    """A configuration file, and the commands that take it."""

    config: Path

    @classmethod
    def write(cls, folder: Path, name: str = "signalbox", **sections: Mapping[str, object]) -> "Installation":
        """Write a configuration, whose ports are chosen by the system unless `sections` says otherwise."""
        given: dict[str, dict[str, object]] = {
            "server": {"bind": "127.0.0.1:0", "drain_timeout": 2, "io_uring_from": 1},
            "admin": {"bind": "127.0.0.1:0"},
            "control": {"handshake_signature": "optional"},
        }
        for section, keys in sections.items():
            given.setdefault(section, {}).update(keys)
        path = folder / f"{name}.toml"
        path.write_text(
            "\n".join(
                "\n".join([f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())])
                for section, keys in given.items()
            )
        )
        return cls(path)

    def start(self, *args: str) -> Program:
        """Start a command."""
        return Program([*COMMAND, *args, "--config", str(self.config)])

    def run(self, *args: str, status: int = 0) -> str:
        """Run a command to its end and return what it printed."""
        done = subprocess.run(
            [*COMMAND, *args, "--config", str(self.config)],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == status, (args, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def json(self, *args: str, status: int = 0) -> list[dict[str, Any]]:
        """Run a command with --json and return the objects that it printed."""
        return [json.loads(line) for line in self.run(*args, "--json", status=status).splitlines()]

    def add_key(self, org: str, workflow: str | None = None, *options: str) -> Key:
        """Make an API key."""
        bound = [] if workflow is None else ["--workflow", workflow]
        (made,) = self.json("keys", "add", "--org", org, *bound, *options)
        return Key(**{field.name: made[field.name] for field in attrs.fields(Key)})

    @contextmanager
    def serve(self, covered: bool = False, **environ: str) -> "Iterator[Broker]":
        """Run a broker for the length of the block."""
        with Program(
            [*COMMAND, "serve", "--config", str(self.config)],
            {"SIGNALBOX_LOG__FORMAT": "json", **environ},
            covered=covered,
        ) as program:
            yield Broker(self, program, program.find(program.err, _listening))

    @contextmanager
    def agent(self, key: Key, url: str, secret: str | None = None, **environ: str) -> "Iterator[Agent]":
        """Run an agent on the real SDK for the length of the block; it is not connected yet at its beginning."""
        assert key.workflow_id is not None
        home = {"HOME": str(self.config.parent), **environ}
        with Program(
            [sys.executable, str(AGENT), key.api_key, secret or key.secret_key, url, key.workflow_id], home
        ) as program:
            yield Agent(program)


@attrs.frozen
class Broker:
    """A running broker: its installation, its process, and where it listens as host:port."""

    installation: Installation
    program: Program
    where: str

    @property
    def url(self) -> str:
        """The base URL that SDKs are given."""
        return f"http://{self.where}"

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, _, port = self.where.rpartition(":")
        return host, int(port)

    async def browser(self, key: Key, **options: Any) -> WsClient:
        """Open an event socket as a browser does."""
        return await WsClient.connect(self.address, f"/ws/?token={key.api_key}", **options)

    async def raw(self) -> RawClient:
        """Open a TCP connection."""
        return await RawClient.connect(self.address)

    def logged(self, event: str, since: int = 0, timeout: float = PATIENCE) -> dict[str, Any]:
        """Wait until the broker logs an event, and return the whole record."""

        def wanted(line: str) -> dict[str, Any] | None:
            record: dict[str, Any] = json.loads(line) if line.startswith("{") else {}
            return record if record.get("event") == event else None

        return self.program.find(self.program.err, wanted, timeout, since)

    def log(self) -> list[dict[str, Any]]:
        """Return all that it has logged; a line that is no JSON is a failure."""
        return [json.loads(line) for line in list(self.program.err)]


def _listening(line: str) -> str | None:
    record: dict[str, Any] = json.loads(line) if line.startswith("{") else {}
    return str(record["on"][0]) if record.get("event") == "listening" else None


@attrs.define(eq=False)
class Agent:
    """A running agent."""

    program: Program
    _seen: int = 0

    def next(self, *events: str, timeout: float = PATIENCE) -> dict[str, Any]:
        """Wait for the next of these events, past the one that was returned last."""
        place = self._seen

        def wanted(line: str) -> dict[str, Any] | None:
            nonlocal place
            place += 1
            said: dict[str, Any] = json.loads(line)
            return said if said["event"] in events else None

        found = self.program.find(self.program.out, wanted, timeout, self._seen)
        self._seen = place
        return found

    def log(self, *levels: str) -> list[str]:
        """Return what the SDK has logged at these levels (all: none given) until now, or until its end began."""
        said = [json.loads(line) for line in list(self.program.out)]
        working = itertools.takewhile(lambda line: line["event"] != "ending", said)
        records = [line for line in working if line["event"] == "log" and (not levels or line["level"] in levels)]
        return [f"{record['level']} {record['text']}" for record in records]

    def suspend(self) -> None:
        """Stop it as a laptop's lid does."""
        self.program.signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let it go on."""
        self.program.signal(signal.SIGCONT)

    def end(self) -> list[str]:
        """End it in order, and return the complaints in its log: all that is no mere information."""
        self.program.end_input()
        assert self.next("ending")["connected"], "the SDK had lost its socket"
        self.program.wait()
        return self.log("WARNING", "ERROR", "CRITICAL")
