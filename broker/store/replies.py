"""Reading replies: Redis speaks RESP2 or RESP3, and redis-py reshapes some replies; all of them are accepted."""

from collections.abc import Iterator, Mapping, Sequence
from typing import cast


def blob(value: object) -> bytes:
    """A bulk or simple string as bytes.

    Raises TypeError for another reply.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise TypeError(f"expected a string from Redis, not {type(value).__name__}")


def text(value: object) -> str:
    """A bulk or simple string as text."""
    return value if isinstance(value, str) else blob(value).decode()


def maybe_text(value: object) -> str | None:
    """A string, or None for nil and for the empty string."""
    return (text(value) or None) if value is not None else None


def integer(value: object) -> int:
    """An integer reply, or one that travels as a string."""
    return int(value) if isinstance(value, int | str | bytes) else int(blob(value))


def items(value: object) -> Sequence[object]:
    """An array, a set, or nil as an empty sequence.

    Raises TypeError for another reply.
    """
    if value is None:
        return ()
    if isinstance(value, list | tuple):
        return cast("Sequence[object]", value)
    if isinstance(value, set | frozenset):
        return list(value)
    raise TypeError(f"expected an array from Redis, not {type(value).__name__}")


def pairs(value: object) -> Iterator[tuple[object, object]]:
    """Fields and values of a map (RESP3) or of a flat array (RESP2)."""
    if isinstance(value, Mapping):
        return iter(value.items())
    flat = items(value)
    return zip(flat[::2], flat[1::2], strict=True)


def fields(value: object) -> dict[str, str]:
    """A hash as a dict of text."""
    return {text(name): text(content) for name, content in pairs(value)}
