"""Sealing the secrets of API keys at rest: what stands in Redis is then of no use without the master key."""

from typing import Final, Protocol

from broker.store.errors import SealError

PREFIX: Final = "sealed:"
"""What a sealed secret begins with; a plain one is 64 hex digits. Then its master key's fingerprint, and the rest."""


class Sealer(Protocol):
    """Turns a secret into what is stored, and back. Must be safe to call from several threads.

    ``owner`` is the hash of the API key that the secret is for: what was sealed for one cannot be unsealed for another.
    """

    @property
    def fingerprint(self) -> str:
        """Tells master keys apart and says nothing else about them; "" where there is none."""
        ...

    def seal(self, secret: str, owner: str) -> str:
        """What is written to Redis in the secret's place."""
        ...

    def unseal(self, stored: str, owner: str) -> str:
        """The secret again. Raises SealError when it was sealed with another master key, or altered."""
        ...


class Unsealed:
    """Stores secrets as they are: reading Redis is then knowing every secret."""

    __slots__ = ()
    fingerprint = ""

    def seal(self, secret: str, owner: str) -> str:
        """The secret itself."""
        return secret

    def unseal(self, stored: str, owner: str) -> str:
        """The secret itself. Raises SealError for one that is sealed."""
        if is_sealed(stored):
            raise SealError(
                f"the secrets are sealed with master key {fingerprint_of(stored)}, and none is configured: "
                "set redis.master_key_file"
            )
        return stored


class Blindfold:
    """For whoever has no use for secrets: it shows none, and so needs no master key."""

    __slots__ = ()
    fingerprint = ""

    def seal(self, secret: str, owner: str) -> str:
        """Raises SealError."""
        raise SealError("a secret cannot be written without looking at it")

    def unseal(self, stored: str, owner: str) -> str:
        """Nothing."""
        return ""


UNSEALED: Final[Sealer] = Unsealed()
BLINDFOLD: Final[Sealer] = Blindfold()


def is_sealed(stored: str) -> bool:
    """Whether what is stored is not the secret itself."""
    return stored.startswith(PREFIX)


def fingerprint_of(stored: str) -> str:
    """The fingerprint of the master key with which a secret was sealed; "" for one that is not sealed."""
    return stored.split(":")[1] if is_sealed(stored) else ""
