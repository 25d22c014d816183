"""What Redis answers, taken apart by hiredis, which believes every length that it is told."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import hiredis
from redis.connection import DefaultParser

from broker.link.slots import OutOfStep

NOT_YET = object()
"""What the parser answers when it needs more bytes."""

MAX_ELEMENTS = 9_999_999
"""Of one array, map, set or push; no reply to a command of ours comes near."""

_DIGITS = len(str(MAX_ELEMENTS))
_TOO_MANY = re.compile(rb"\r\n[*%%~>|][0-9]{%d}" % (_DIGITS + 1))
_TOO_MANY_AT_ONCE = re.compile(rb"[*%%~>|][0-9]{%d}" % (_DIGITS + 1))
_UNFINISHED = re.compile(rb"(?:\A|\r\n)([*%%~>|][0-9]{0,%d}|\r)\Z|\r\Z" % _DIGITS)
_LONGEST_UNFINISHED = len("\r\n>") + _DIGITS


class Parser:
    """A parser of RESP3 that refuses an announcement of more than MAX_ELEMENTS before hiredis makes room for them.

    hiredis sets aside a list of the announced length at once: twenty bytes from a broken server would cost gigabytes,
    and half a minute. What looks like such an announcement may as well be inside somebody's payload. So the
    bytes before it are fed first: as hiredis keeps a payload that has not come whole, and nothing else that ends a
    line, it is an announcement if nothing is kept. Ordinary traffic pays one search per read.

    Usage: `feed`, then `gets` until it answers NOT_YET and `more` says no.
    """

    def __init__(self) -> None:
        # set_encoding is never called: everything stays bytes.
        self._reader = hiredis.Reader(replyError=_error_reply, notEnoughData=NOT_YET)
        self._unfinished = b""
        self._doubtful = b""
        self.gets: Callable[[], Any] = self._reader.gets
        """The next reply, or NOT_YET. Raises hiredis.HiredisError, and TypeError for a map whose key is a list."""

    def feed(self, data: bytes | bytearray) -> None:
        """Take the next bytes; only after `more` has said no."""
        whole: bytes = self._unfinished + data
        self._unfinished = b""
        if not whole.endswith(b"\n") and (found := _UNFINISHED.search(whole, max(0, len(whole) - _LONGEST_UNFINISHED))):
            start = found.start(1) if found.group(1) else found.start()
            whole, self._unfinished = whole[:start], whole[start:]
        # the first test is quick, and hardly ever true
        if whole[_DIGITS + 1 : _DIGITS + 2].isdigit() and _TOO_MANY_AT_ONCE.match(whole):
            self._doubtful = whole
        else:
            self._feed(whole)

    def more(self) -> bool:
        """Go on with bytes that were doubtful, if there are any: there may be more replies then.

        Raises OutOfStep when they do announce too much.
        """
        if not self._doubtful:
            return False
        if not self._reader.has_data():
            raise OutOfStep(f"more than {MAX_ELEMENTS} elements are announced")
        whole, self._doubtful = self._doubtful, b""
        self._feed(whole)
        return True

    def has_data(self) -> bool:
        """Whether bytes came that were no reply yet."""
        return bool(self._doubtful) or self._reader.has_data()

    def waiting_bytes(self) -> int:
        """How many bytes wait for the rest of their reply, roughly: hiredis frees what is used up by the kilobyte."""
        return self._reader.len() + len(self._doubtful)

    def _feed(self, data: bytes) -> None:
        found = _TOO_MANY.search(data)
        if found is None:
            self._reader.feed(data)
            return
        start = found.start() + len("\r\n")
        self._reader.feed(data[:start])
        self._doubtful = data[start:]


_error_reply: Callable[[str], Exception] = DefaultParser.parse_error
