"""The program under test: a broker that tells, on SIGUSR1, how many tasks it has.

python -m tests.stress.broker CONFIG FILE
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

import trio

from broker import observe
from broker.config import load
from broker.daemon import serve

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def main(config_file: Path, told: Path) -> None:
    """Run until SIGTERM; `told` is replaced by a file with the number of tasks at each SIGUSR1."""

    def tell(*_: object) -> None:
        _LIBC.malloc_trim(0)  # what is free and merely was not given back is not held
        new = told.with_suffix(".new")
        new.write_text(str(trio.lowlevel.current_statistics().tasks_living))
        new.rename(told)

    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGUSR1, tell)
    config = load(config_file, os.environ)
    observe.configure(config.log.level, config.log.format)
    serve(config)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
