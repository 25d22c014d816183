"""An AI agent on the real SDK: a program that tells, one JSON object per line, what its control plane makes it do.

    python agent.py API_KEY SECRET URL WORKFLOW

It prints `{"event": "connected", "states": {...}}` once the SDK has its snapshot, then `{"event": "runs"}`,
`{"event": "paused", "reason"}` or `{"event": "killed", "reason"}` whenever `check_control_plane` begins to behave
differently, each with the time `at` as a unix time; `{"event": "log", "level", "text"}` is what the SDK logs. It ends
with the end of its standard input.
"""

import json
import logging
import select
import sys
import threading
import time

from nullrun.breaker.exceptions import NullRunWorkflowKilledError, WorkflowPausedException
from nullrun.runtime import NullRunRuntime

STEP = 0.001
"""Seconds between two steps of the agent, each of which asks the SDK whether it may go on."""

_one_at_a_time = threading.Lock()


def say(event: str, **fields: object) -> None:
    """Print one line, from whichever thread."""
    line = json.dumps({"event": event, "at": time.time(), **fields})
    with _one_at_a_time:
        print(line, flush=True)


class Said(logging.Handler):
    """Makes lines of log records."""

    def emit(self, record: logging.LogRecord) -> None:
        say("log", level=record.levelname, name=record.name, text=record.getMessage())


def asked_to_end() -> bool:
    """Wait for a step, and tell whether the standard input has ended."""
    return bool(select.select([sys.stdin], [], [], STEP)[0]) and not sys.stdin.readline()


def connected(runtime: NullRunRuntime, workflow: str) -> bool:
    """Tell whether the SDK holds its socket and knows the workflow; one that polls is always ready."""
    if runtime._transport_mode == "http":
        return True
    connection = runtime._ws_connection
    return connection is not None and connection.is_connected and workflow in runtime._remote_states


def attempt(runtime: NullRunRuntime, workflow: str) -> tuple[str, str | None]:
    """Do one step of the agent's work and return what became of it."""
    try:
        runtime.check_control_plane(workflow)
    except WorkflowPausedException as paused:
        return "paused", paused.reason
    except NullRunWorkflowKilledError as killed:
        return "killed", killed.reason
    return "runs", None


def main(api_key: str, secret: str, url: str, workflow: str) -> None:
    """Connect, and work until told otherwise."""
    logger = logging.getLogger("nullrun")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(Said())
    runtime = NullRunRuntime(api_key=api_key, secret_key=secret, api_url=url)
    while not connected(runtime, workflow):
        if asked_to_end():
            return
    say("connected", states={name: state.get("state") for name, state in runtime._remote_states.items()})
    before: tuple[str, str | None] | None = None
    while True:
        now = attempt(runtime, workflow)
        if now != before:
            say(now[0], reason=now[1])
            before = now
        if asked_to_end():
            break
    say("ending", connected=connected(runtime, workflow))
    runtime.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
