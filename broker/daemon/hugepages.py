"""The memory that the start has filled, in huge pages.

A broker that is woken by one event after some idling waits for memory more than for anything else, and before that for
the page tables that say where it is. With huge pages one entry of these tables covers 2 MiB, and not 4 KiB.

See madvise(2) on MADV_COLLAPSE (Linux 6.1), and Documentation/admin-guide/mm/transhuge.rst of the kernel.
"""

import ctypes
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

__all__ = ["HUGE_BYTES", "MAX_PAGES", "collapse"]

HUGE_BYTES = 2 << 20

MAX_PAGES = 32
"""How many are made at the most: each takes 2 ms, and a start has filled a dozen."""

_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_MADV_COLLAPSE = 25
_madvise = ctypes.CDLL(None).madvise


def collapse(setting: Path = _SETTING) -> int:
    """Put what this process has allocated into huge pages, as far as it fills them, and return how many there are now.

    It is none where the kernel cannot, or where `setting` says that nobody shall have any.
    """
    try:
        if "[never]" in setting.read_text():
            return 0
        places = list(islice(_places(), MAX_PAGES))
    except OSError:
        return 0
    advise = (ctypes.c_size_t(HUGE_BYTES), ctypes.c_int(_MADV_COLLAPSE))
    return sum(_madvise(ctypes.c_void_p(start), *advise) == 0 for start in places)


def _places() -> Iterator[int]:
    """Yield where a huge page could be: in memory of our own that is no file's, nor a stack."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, permissions, _offset, _device, _inode, *name = line.split(maxsplit=5)
        if permissions == "rw-p" and name in ([], ["[heap]"]):
            start, end = (int(part, 16) for part in span.split("-"))
            first = -(-start // HUGE_BYTES) * HUGE_BYTES
            yield from range(first, end - HUGE_BYTES + 1, HUGE_BYTES)
