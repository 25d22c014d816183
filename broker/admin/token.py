"""Who may use the operator API: a file of tokens, read again whenever it changes."""

import hashlib
import hmac
import os
import re
import stat
from pathlib import Path

import attrs

from broker.observe import Repeated

__all__ = ["MIN_TOKEN", "TokenFile"]

MIN_TOKEN = 16
"""Characters that a token must have at least; `openssl rand -hex 32` makes 64."""

DEFAULT_NAME = "operator"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~@-]{0,63}")


@attrs.frozen
class _Token:
    name: str
    digest: bytes


class TokenFile:
    """The bearer tokens of operators: one line each, either a token or a name and a token; # begins a comment.

    The name is what is recorded as the actor, "operator" for a token without one. A file that is missing, empty or
    malformed admits nobody: it is better to lock an operator out than to let anybody in.

    Args:
        path: None for no operator API.
        say: for complaints.
    """

    def __init__(self, path: Path | None, say: Repeated) -> None:
        self._path = path
        self._say = say
        self._seen: tuple[int, int, int] | None = None
        self._tokens: tuple[_Token, ...] = ()

    @property
    def path(self) -> Path | None:
        """Where the tokens are; may be set at any time."""
        return self._path

    @path.setter
    def path(self, path: Path | None) -> None:
        if path != self._path:
            self._path, self._seen, self._tokens = path, None, ()

    @property
    def is_open(self) -> bool:
        """Whether there is any token that would be admitted."""
        self._refresh()
        return bool(self._tokens)

    def holder(self, presented: str) -> str | None:
        """Return the name that a token belongs to, None when it is no token; takes as long for one as for the other."""
        self._refresh()
        digest = _digest(presented)
        found = None
        for token in self._tokens:
            if hmac.compare_digest(token.digest, digest):
                found = token.name
        return found

    def _refresh(self) -> None:
        if self._path is None:
            return
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_ino, status.st_size)
            if seen == self._seen:
                return
            tokens = _parse(self._path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            self._seen, self._tokens = None, ()
            why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            self._say.error("token_file", "admin.token_file cannot be used: nobody is admitted", error=why)
            return
        self._seen, self._tokens = seen, tokens
        if status.st_mode & stat.S_IROTH:
            self._say.warning("token_file_mode", "admin.token_file can be read by everybody on this machine")


def _parse(text: str) -> tuple[_Token, ...]:
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        name, token = words if len(words) == 2 else (DEFAULT_NAME, words[0])
        if len(words) > 2 or not _NAME.fullmatch(name):
            raise ValueError(f"line {number} must be a token, or a name and a token")
        if len(token) < MIN_TOKEN:
            raise ValueError(f"the token in line {number} is shorter than {MIN_TOKEN} characters")
        found.append(_Token(name, _digest(token)))
    if not found:
        raise ValueError("there is no token in it")
    return tuple(found)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
