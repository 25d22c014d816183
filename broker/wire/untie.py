"""Letting go of a connection's objects at its end, so that counting references frees them.

The garbage collector is kept from the old generation, where it would stop the loop for hundreds of milliseconds with
thousands of sessions. What refers to itself would then stay for ever.
"""

import gc
from types import GeneratorType

__all__ = ["close_generators"]

_LIBRARIES = ("trio_websocket", "wsproto")


def close_generators(root: object) -> int:
    """Close the generators that a WebSocket library's object holds, and return how many there were.

    wsproto parses frames in a generator that belongs to the very object that keeps it; suspended, it keeps both alive.
    Only objects of the libraries are looked into, and their dictionaries.
    """
    seen = {id(root)}
    found = 0
    todo = [root]
    while todo:
        for child in gc.get_referents(todo.pop()):
            if isinstance(child, GeneratorType):
                child.close()
                found += 1
            elif id(child) not in seen and _is_inner(child):
                seen.add(id(child))
                todo.append(child)
    return found


def _is_inner(thing: object) -> bool:
    kind = type(thing)
    return kind is dict or (kind is not type and kind.__module__.startswith(_LIBRARIES))
