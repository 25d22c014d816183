"""The seam for sealing secrets at rest."""

from typing import Final, Protocol


class Sealer(Protocol):
    """Turns a secret into what is stored and back. Must be safe to call from several threads."""

    def seal(self, secret: str) -> str:
        """What is written to Redis in the secret's place."""
        ...

    def unseal(self, sealed: str) -> str:
        """The secret again. Raises ValueError when it was sealed by another."""
        ...


class Unsealed:
    """Stores secrets as they are: Redis access is then access to every secret."""

    __slots__ = ()

    def seal(self, secret: str) -> str:
        """The secret itself."""
        return secret

    def unseal(self, sealed: str) -> str:
        """The secret itself."""
        return sealed


UNSEALED: Final[Sealer] = Unsealed()
