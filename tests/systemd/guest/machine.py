"""The booted machine, as its operator handles it: units, drop-ins, the journal and the command line of the broker."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

SERVICE = "signalbox.service"
SOCKET = "signalbox.socket"
UNITS = Path("/etc/systemd/system")
CONFIG = Path("/etc/signalbox/signalbox.toml")
PROGRAM = "/opt/signalbox/bin/signalbox"
ADDRESS = ("127.0.0.1", 8765)

BASE_CONFIG = '[control]\nhandshake_signature = "optional"\nping_interval = 1\n[server]\ndrain_timeout = 5\n'


async def run(*command: str, check: bool = True) -> str:
    """Run a command and return what it says, both streams; AssertionError when it fails and `check` is set."""
    done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.STDOUT, check=False)
    text = done.stdout.decode(errors="replace")
    assert not check or done.returncode == 0, f"{' '.join(command)} exits with {done.returncode}:\n{text}"
    return text


async def systemctl(*arguments: str, check: bool = True) -> str:
    """Run systemctl."""
    return await run("systemctl", *arguments, check=check)


async def prop(name: str, unit: str = SERVICE) -> str:
    """Return a property of a unit."""
    return (await systemctl("show", "--value", "-p", name, unit)).strip()


async def main_pid(unit: str = SERVICE) -> int:
    """Return the process id of the broker; 0 when it does not run."""
    return int(await prop("MainPID", unit))


async def journal(unit: str = SERVICE) -> list[str]:
    """Return what a unit has said since the check began."""
    text = await run("journalctl", "-q", "-o", "cat", "-u", unit, f"--since=@{_began}")
    return text.splitlines()


_began = 0.0


async def fresh(config: str = BASE_CONFIG) -> None:
    """Begin with no unit running, no drop-in, no state, and this configuration."""
    global _began  # noqa: PLW0603
    await systemctl("stop", SOCKET, SERVICE, "signalbox@1.service", "signalbox@2.service", check=False)
    await systemctl("reset-failed", check=False)
    await run("sh", "-c", "rm -rf /var/lib/private/signalbox /etc/systemd/system/signalbox*.d")
    await configure(config)
    await systemctl("daemon-reload")
    await run("journalctl", "--sync")
    _began = time.time()


async def configure(text: str) -> None:
    """Write the configuration."""
    CONFIG.parent.mkdir(exist_ok=True)
    CONFIG.write_text(text)


async def drop_in(text: str, unit: str = SERVICE, name: str = "check") -> None:
    """Change a unit, as `systemctl edit` does."""
    folder = UNITS / f"{unit}.d"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.conf").write_text(text)
    await systemctl("daemon-reload")


async def signalbox(*arguments: str, check: bool = True) -> str:
    """Run the broker's command line against the service's own store."""
    environ = ["env", "SIGNALBOX_REDIS__DATA_DIR=/var/lib/private/signalbox"]
    return await run(*environ, PROGRAM, *arguments, check=check)


async def add_key(*options: str) -> dict[str, Any]:
    """Make an API key for org acme; returns what `keys add --json` prints."""
    said = await signalbox("keys", "add", "--org", "acme", "--json", *options)
    found: dict[str, Any] = json.loads([line for line in said.splitlines() if line.startswith("{")][-1])
    return found


async def http_get(path: str) -> tuple[int, str]:
    """Ask the broker once, on a connection of its own; OSError when it is not there."""
    with trio.fail_after(10):
        stream = await trio.open_tcp_stream(*ADDRESS)
        async with stream:
            await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while chunk := await stream.receive_some():
                answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head:
        raise ConnectionResetError("closed without an answer")
    return int(head.split()[1]), body.decode()


async def until(what: str, holds: Callable[[], Any], seconds: float = 20) -> None:
    """Wait until `holds()`, which may be async, is true."""
    deadline = trio.current_time() + seconds
    while True:
        found = holds()
        if hasattr(found, "__await__"):
            found = await found
        if found:
            return
        assert trio.current_time() < deadline, f"not within {seconds:g} s: {what}"
        await trio.sleep(0.02)


async def said(words: str, unit: str = SERVICE) -> bool:
    """Tell whether the journal of a unit has these words."""
    return any(words in line for line in await journal(unit))
