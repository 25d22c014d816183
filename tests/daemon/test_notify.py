"""The service manager is told what it should be, in the form of sd_notify(3)."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from broker.daemon.notify import Notifier, feed_watchdog


@attrs.frozen
class Manager:
    """The receiving end, as process 1 has it."""

    sock: socket.socket
    address: str

    def heard(self) -> str:
        return self.sock.recv(4096).decode()

    def heard_with_descriptors(self) -> tuple[str, list[int]]:
        data, descriptors, _, _ = socket.recv_fds(self.sock, 4096, 8)
        return data.decode(), descriptors


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    """A service manager that listens, at a path or at an abstract address."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@signalbox-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + address[1:] if address[0] == "@" else address)
        sock.setblocking(False)
        yield Manager(sock, address)


def notifier_of(manager: Manager, **more: str) -> Notifier:
    """What a process that this manager started makes of its environment."""
    return Notifier.of({"NOTIFY_SOCKET": manager.address, **more})


async def test_states(manager: Manager) -> None:
    """Each state is one datagram with its line for people."""
    notifier = notifier_of(manager)
    assert notifier.is_heard
    notifier.status("starting")
    notifier.ready("serving")
    notifier.stopping("draining")
    notifier.alive()
    assert [manager.heard() for _ in range(4)] == [
        "STATUS=starting",
        "READY=1\nSTATUS=serving",
        "STOPPING=1\nSTATUS=draining",
        "WATCHDOG=1",
    ]


async def test_reloading_tells_the_time(manager: Manager) -> None:
    """A reload begins with the monotonic time, by which the service manager tells reloads apart."""
    notifier_of(manager).reloading()
    first, second = manager.heard().split("\n")
    assert first == "RELOADING=1"
    assert int(second.removeprefix("MONOTONIC_USEC=")) > 0


async def test_keeping_descriptors(manager: Manager) -> None:
    """A descriptor travels with its name, is to be kept when its other end hangs up, and can be dropped by name."""
    notifier = notifier_of(manager)
    ours, other = os.pipe()
    try:
        assert notifier.keep(ours, "handover")
        text, descriptors = manager.heard_with_descriptors()
        assert text == "FDSTORE=1\nFDNAME=handover\nFDPOLL=0"
        assert os.fstat(descriptors[0]) == os.fstat(ours)
        os.close(descriptors[0])
    finally:
        os.close(ours)
        os.close(other)
    notifier.drop("handover")
    assert manager.heard() == "FDSTOREREMOVE=1\nFDNAME=handover"


async def test_barrier(manager: Manager) -> None:
    """The barrier is passed when the service manager closes the pipe that it was sent, not before."""
    passed: list[bool] = []
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            passed.append(await notifier_of(manager).barrier())

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        text, descriptors = manager.heard_with_descriptors()
        assert (text, passed) == ("BARRIER=1", [])
        os.close(descriptors[0])
    assert passed == [True]


async def test_barrier_is_bounded(manager: Manager, autojump_clock: MockClock) -> None:
    """A service manager that works nothing off is not waited for in vain."""
    assert not await notifier_of(manager).barrier()


async def test_nobody_listens(tmp_path: Path) -> None:
    """Without a service manager, or with one that is gone, nothing happens and nothing is raised."""
    for environ in ({}, {"NOTIFY_SOCKET": str(tmp_path / "gone")}, {"NOTIFY_SOCKET": "vsock:2:1234"}):
        notifier = Notifier.of(environ)
        notifier.ready("serving")
        assert not notifier.keep(0, "handover")
        assert not await notifier.barrier()


def test_children_inherit_nothing(manager: Manager) -> None:
    """The variables are taken out of the environment: no child speaks for the service."""
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1", "HOME": "/"}
    Notifier.of(environ)
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({"WATCHDOG_USEC": "6000000"}, 6.0),
        ({"WATCHDOG_USEC": "6000000", "WATCHDOG_PID": str(os.getpid())}, 6.0),
        ({"WATCHDOG_USEC": "6000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_watchdog_interval(manager: Manager, environ: dict[str, str], interval: float | None) -> None:
    """The watchdog is ours only when it is set, and set for this very process."""
    assert notifier_of(manager, **environ).watchdog_interval == interval


async def test_feeding_the_watchdog(manager: Manager, autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """It is fed three times per interval."""
    nursery.start_soon(feed_watchdog, notifier_of(manager, WATCHDOG_USEC="3000000"))
    await trio.sleep(3.5)
    fed = [manager.heard() for _ in range(4)]
    assert fed == ["WATCHDOG=1"] * 4
    with pytest.raises(BlockingIOError):
        manager.heard()


async def test_no_watchdog(manager: Manager) -> None:
    """Without an interval nothing is fed, and the task ends."""
    await feed_watchdog(notifier_of(manager))
    with pytest.raises(BlockingIOError):
        manager.heard()
