"""What the store refuses, in words for an operator."""


class StoreError(Exception):
    """Something in the store is not as the operation needs it; the text says what and what to do."""


class UnknownKey(StoreError):
    """There is no API key with this key_id."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"there is no key {key_id}")
        self.key_id = key_id


class KeyRevoked(StoreError):
    """The key was revoked, and stays so."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"key {key_id} is revoked; make a new one with `signalbox keys add`")
        self.key_id = key_id


class DamagedKey(StoreError, ValueError):
    """The hash of an API key is not as this Signalbox writes it."""

    def __init__(self, key_id: str, why: str) -> None:
        super().__init__(f"the stored key {key_id} is damaged: {why}")


class DamagedWorkflow(StoreError, ValueError):
    """What is stored of a workflow is not as this Signalbox writes it."""

    def __init__(self, workflow_id: str) -> None:
        super().__init__(f"what is stored of workflow {workflow_id} is damaged")


class SealError(StoreError, ValueError):
    """A secret cannot be sealed or unsealed: the master key is missing, another, or the secret was altered."""


class WrongSchema(StoreError):
    """The data in this Redis was written by an incompatible Signalbox."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(
            f"the data in this Redis has layout version {found}, this Signalbox understands {expected}: "
            "run the Signalbox that wrote it, or give this one another redis.prefix"
        )
        self.found = found
        self.expected = expected
