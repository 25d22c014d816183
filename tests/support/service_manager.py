"""A service manager for tests: hears notifications, keeps descriptors, and starts brokers with them."""

import array
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

_START = """
import fcntl, os, sys
moved = [fcntl.fcntl(int(each), fcntl.F_DUPFD, 100) for each in sys.argv[1].split(",")]
for number, each in enumerate(moved, 3):
    os.dup2(each, number)
    os.close(each)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


@attrs.define(eq=False)
class ServiceManager:
    """Use `service_manager()`.

    Attributes:
        keeps: whether it keeps descriptors at all.
        kept: the descriptors by name.
        heard: all notifications, oldest first.
    """

    address: str
    sock: trio.socket.SocketType
    keeps: bool = True
    kept: dict[str, list[int]] = attrs.field(factory=dict)
    heard: list[str] = attrs.field(factory=list)
    changed: trio.Event = attrs.field(factory=trio.Event)

    async def listen(self) -> None:
        """Work notifications off, for ever."""
        while True:
            data, ancillary, _, _ = await self.sock.recvmsg(4096, socket.CMSG_SPACE(64))
            descriptors = array.array("i")
            for _level, _kind, payload in ancillary:
                descriptors.frombytes(payload[: len(payload) - len(payload) % descriptors.itemsize])
            self._take(data.decode(), list(descriptors))

    def _take(self, text: str, descriptors: list[int]) -> None:
        lines = text.split("\n")
        name = next((line.removeprefix("FDNAME=") for line in lines if line.startswith("FDNAME=")), "")
        if "FDSTORE=1" in lines and self.keeps:
            self.kept.setdefault(name, []).extend(descriptors)
        else:
            for descriptor in descriptors:
                os.close(descriptor)
        if "FDSTOREREMOVE=1" in lines:
            self.forget(name)
        self.heard.append(text)
        self.changed.set()
        self.changed = trio.Event()

    def forget(self, name: str) -> None:
        """Close what is kept under a name."""
        for descriptor in self.kept.pop(name, []):
            os.close(descriptor)

    async def wait_for(self, words: str) -> None:
        """Wait until a notification with these words has come; those before it are forgotten."""
        with trio.fail_after(20):
            while not any(words in each for each in self.heard):
                await self.changed.wait()
        self.heard.clear()

    def start(self, config: Path, listener: socket.socket, **environ: str) -> "subprocess.Popen[bytes]":
        """Start a broker with a listening socket and all that is kept."""
        given = [("public", listener.fileno())]
        given += [(name, descriptor) for name, descriptors in self.kept.items() for descriptor in descriptors]
        numbers = ",".join(str(each[1]) for each in given)
        program = [sys.executable, "-m", "broker", "serve", "--config", str(config)]
        return subprocess.Popen(
            [sys.executable, "-c", _START, numbers, *program],
            pass_fds=[each[1] for each in given],
            env={
                **os.environ,
                "NOTIFY_SOCKET": self.address,
                "LISTEN_FDS": str(len(given)),
                "LISTEN_FDNAMES": ":".join(each[0] for each in given),
                "SIGNALBOX_LOG__FORMAT": "json",
                **environ,
            },
        )


@asynccontextmanager
async def service_manager(folder: Path) -> AsyncIterator[ServiceManager]:
    """Run a service manager for the length of the block."""
    address = str(folder / "notify")
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    await sock.bind(address)
    manager = ServiceManager(address, sock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(manager.listen)
        try:
            yield manager
        finally:
            nursery.cancel_scope.cancel()
            sock.close()
            for name in list(manager.kept):
                manager.forget(name)
