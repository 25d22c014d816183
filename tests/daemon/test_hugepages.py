"""Huge pages for what the start has filled."""

import mmap
import re
import subprocess
import sys
from pathlib import Path

import pytest

from broker.daemon.hugepages import HUGE_BYTES, collapse
from tests.conftest import Valkey
from tests.e2e.broker import Installation

ALLOWED = "always [madvise] never\n"
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
MADV_COLLAPSE = 25

FILL = """
import sys
from pathlib import Path
from broker.daemon.hugepages import HUGE_BYTES, MAX_PAGES, collapse

filled = bytearray(b"full" * (4 * MAX_PAGES * HUGE_BYTES // 4))
rollup = Path("/proc/self/smaps_rollup")
print(collapse(Path(sys.argv[1])), filled.count(b"full") == len(filled) // 4, rollup.read_text())
"""


def huge_bytes(rollup: str) -> int:
    """Return how much memory is in huge pages, from the kernel's account of a process."""
    found = re.search(r"^AnonHugePages: *([0-9]+) kB", rollup, re.MULTILINE)
    assert found
    return int(found[1]) * 1024


@pytest.fixture
def setting(tmp_path: Path) -> Path:
    """Return a setting that allows them; the test is skipped, aloud, where the kernel makes none when it is asked."""
    with mmap.mmap(-1, 3 * HUGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.write(b"full" * (len(memory) // 4))
        try:
            memory.madvise(MADV_COLLAPSE)
        except OSError as error:
            pytest.skip(f"this kernel does not make huge pages when asked: {error}")
    path = tmp_path / "enabled"
    path.write_text(ALLOWED)
    return path


def test_what_is_filled_is_in_huge_pages(setting: Path) -> None:
    """A process that has more than enough gets as many as there may be, and keeps what is in them."""
    run = subprocess.run([sys.executable, "-c", FILL, setting], capture_output=True, text=True, check=True, timeout=30)
    pages, is_whole, rollup = run.stdout.split(maxsplit=2)
    assert (int(pages), is_whole) == (32, "True")
    assert huge_bytes(rollup) >= 32 * HUGE_BYTES


def test_where_nobody_shall_have_any(setting: Path, tmp_path: Path) -> None:
    """The administrator's word counts, and a kernel that knows nothing of them has none."""
    setting.write_text("always madvise [never]\n")
    assert collapse(setting) == 0
    assert collapse(tmp_path / "nothing") == 0


def test_the_daemon_has_them(setting: Path, valkey: Valkey, tmp_path: Path) -> None:
    """A broker has asked for them by the time it serves, unless the machine has none."""
    if "[never]" in SETTING.read_text():
        pytest.skip("this machine allows nobody huge pages")
    with Installation.write(tmp_path, redis={"url": valkey.url}).serve() as broker:
        assert huge_bytes(Path(f"/proc/{broker.program.pid}/smaps_rollup").read_text()) >= HUGE_BYTES
