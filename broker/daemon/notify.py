"""Telling the service manager how we are: the protocol of sd_notify(3), without its library.

Nothing here waits but `barrier`, and nothing raises: a broker does not stop because nobody listens.
"""

import array
import contextlib
import os
import socket
import time
from collections.abc import MutableMapping

import attrs
import trio

BARRIER_SECONDS = 2.0
"""How long the service manager may take to work off what it was told."""


@attrs.define(eq=False)
class Notifier:
    """Sends datagrams to the service manager, if there is one.

    Attributes:
        watchdog_interval: seconds within which it wants to hear from us, again and again; None if it does not.
    """

    _address: str | None = None
    watchdog_interval: float | None = None

    @classmethod
    def of(cls, environ: MutableMapping[str, str] = os.environ) -> "Notifier":
        """Return what NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID ask for, and take them out of `environ`.

        Children do not inherit them: none of ours speaks for the service.
        """
        address = environ.pop("NOTIFY_SOCKET", "")
        interval = environ.pop("WATCHDOG_USEC", "")
        pid = environ.pop("WATCHDOG_PID", "")
        if not address.startswith(("/", "@")):
            return cls()
        ours = not pid or pid == str(os.getpid())
        micros = int(interval) if interval.isascii() and interval.isdigit() and ours else 0
        return cls(address, micros / 1e6 if micros else None)

    @property
    def is_heard(self) -> bool:
        """Whether there is a service manager."""
        return self._address is not None

    def ready(self, status: str) -> None:
        """Say that the service is up, or up again after a reload; `status` is one line for people."""
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        """Say in one line what is going on."""
        self._send(f"STATUS={status}")

    def reloading(self) -> None:
        """Say that the configuration is being read again; `ready` ends it."""
        micros = int(time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6)
        self._send(f"RELOADING=1\nMONOTONIC_USEC={micros}")

    def stopping(self, status: str) -> None:
        """Say that the end has begun."""
        self._send(f"STOPPING=1\nSTATUS={status}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def keep(self, descriptor: int, name: str) -> bool:
        """Give the service manager a descriptor to keep for our next process; tell whether it was sent.

        It keeps it also when the other end hangs up. The name has no ":" in it.
        """
        return self._send(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", descriptor)

    def drop(self, name: str) -> None:
        """Have the service manager close what it keeps under this name."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    async def barrier(self) -> bool:
        """Wait until everything that was sent has been worked off; tell whether it was, within `BARRIER_SECONDS`."""
        ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            try:
                sent = self._send("BARRIER=1", theirs)
            finally:
                os.close(theirs)
            if sent:
                with trio.move_on_after(BARRIER_SECONDS):
                    await trio.lowlevel.wait_readable(ours)  # the other end is closed once it is our turn
                    return True
            return False
        finally:
            os.close(ours)

    def _send(self, text: str, *descriptors: int) -> bool:
        if self._address is None:
            return False
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        # Blocking, yet short: the receiving queue is worked off by process 1, and losing READY=1 would be worse.
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
        ):
            sock.settimeout(1.0)
            sock.sendmsg([text.encode()], ancillary, 0, address)
            return True
        return False


async def feed_watchdog(notifier: Notifier) -> None:
    """Feed the watchdog from the event loop, three times per interval, until cancelled.

    This is an ordinary task of the loop that serves the clients: when that does not turn, nobody feeds.
    """
    interval = notifier.watchdog_interval
    if interval is None:
        return
    while True:
        notifier.alive()
        await trio.sleep(interval / 3)
