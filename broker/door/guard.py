"""The guard: addresses that keep coming with wrong credentials are answered ever more slowly, then not at all."""

import math

import trio

from broker.door.address import ClientAddress
from broker.door.bad_credentials import BadCredentials
from broker.door.services import DoorServices
from broker.http.answer import refusal
from broker.keys.admission import judge
from protocol.codes import ErrorCode

__all__ = ["Guard"]


class Guard:
    """Stands before every look-up of a credential, and hears of every one that was wrong.

    A good key that is known here already is let past whatever its address did, and what agents ask for, upgrades and
    REST calls, is made to wait rather than turned away unseen: behind one address there may be many, and a refused
    agent never comes back. No more can wait than connections of one address may be in their handshake.
    """

    def __init__(self, services: DoorServices) -> None:
        self._services = services
        self.failures = BadCredentials(services.config.limits.bad_credentials_per_minute)

    def wait(self, address: ClientAddress, api_key: str = "") -> float:
        """Return for how many seconds this address must wait before its credential is looked at; 0: not at all."""
        if not address.countable:
            return 0.0
        seconds = self.failures.wait(address.host, trio.current_time())
        if seconds and api_key:
            known = self._services.keys.recall(api_key)
            if judge(known, self._services.clock()) is None:
                return 0.0
        return seconds

    async def hold(self, address: ClientAddress, api_key: str, longest: float) -> None:
        """Wait until the credential of a request may be looked at, but no longer than so many seconds."""
        await trio.sleep(max(0.0, min(self.wait(address, api_key), longest)))

    def check(self, address: ClientAddress, api_key: str = "", *, longest: float = math.inf) -> None:
        """Let a request past.

        Args:
            address: of the client.
            api_key: what it presents; "" if that is no key.
            longest: the most seconds that it is told to wait.

        Raises:
            Refused: 429 with Retry-After for an address that must wait.
        """
        seconds = self.wait(address, api_key)
        if seconds:
            message = "too many wrong credentials"
            raise refusal(429, ErrorCode.TOO_MANY_REQUESTS, message, retry_after=min(seconds, longest))

    async def note_failure(self, address: ClientAddress) -> None:
        """Count a wrong credential, and hold its answer back for as long as its address has earned."""
        self._services.counters.bad_credentials += 1
        if address.countable:
            await trio.sleep(self.failures.note(address.host, trio.current_time()))
