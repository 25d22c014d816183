"""Why a connection could not be made, as a human would say it."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from errno import errorcode


def reason(error: BaseException) -> str:
    """Return what is behind an error, in the system's words: "Connection refused".

    Trio tries every address of a name and wraps what it met, and redis-py and TLS have wrappings of their own; several
    different causes are joined.
    """
    return ", ".join(dict.fromkeys(_causes(error)))


def _causes(error: BaseException) -> Iterator[str]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _causes(each)
    elif error.__cause__ is not None:
        yield from _causes(error.__cause__)
    elif isinstance(error, ssl.SSLError):
        yield "it does not speak TLS" if error.reason == "WRONG_VERSION_NUMBER" else str(error)
    elif isinstance(error, socket.gaierror):
        yield error.strerror or str(error)
    elif isinstance(error, OSError) and (error.errno or 0) in errorcode:
        yield os.strerror(error.errno or 0)
    else:
        yield str(error) or type(error).__name__
