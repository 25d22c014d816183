"""Run the checks whose names contain one of the arguments, or all: python -m tests.systemd.guest [WORD]..."""

import inspect
import sys
import time
import traceback
from collections.abc import Awaitable, Callable

import trio

from tests.systemd.guest import activation, ending, faults, machine, reloading, sandbox, survival

Check = Callable[[], Awaitable[object]]

PATIENCE = 120

MODULES = (sandbox, activation, ending, survival, reloading, faults)


def find_checks(words: list[str]) -> list[Check]:
    """Return the functions called check_… of all modules, in their order."""
    found = [
        function
        for module in MODULES
        for name, function in vars(module).items()
        if name.startswith("check_") and inspect.iscoroutinefunction(function)
    ]
    return [each for each in found if not words or any(word in each.__name__ for word in words)]


async def run_all(checks: list[Check]) -> int:
    """Run checks one after the other; the exit status."""
    failed = []
    for check in checks:
        name = check.__name__.removeprefix("check_")
        began = time.monotonic()
        try:
            with trio.fail_after(PATIENCE):
                await machine.fresh()
                note = await check()
        except Exception:  # noqa: BLE001  whatever it is, the next check gets its turn
            failed.append(name)
            print(f"FAILED  {name}: {(check.__doc__ or '').strip()}\n{traceback.format_exc()}", flush=True)
            print("\n".join(["its journal:", *(await machine.journal())[-15:]]), flush=True)
        else:
            print(f"ok      {name} ({time.monotonic() - began:.1f} s){f': {note}' if note else ''}", flush=True)
    await machine.fresh()
    print(f"{len(checks) - len(failed)} of {len(checks)} checks passed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(trio.run(run_all, find_checks(sys.argv[1:])))
