"""The program under test: a whole broker with its echo endpoint, on a listener that may be unkind.

python -m tests.conformance.broker [--port N] [--read N] [--write N] [--send-buffer N] [--seed N]
"""

import argparse

from broker import observe
from broker.config import loads
from broker.daemon import serve
from broker.daemon.inherit import Inherited
from tests.conformance.unkind import UnkindListener

ECHO_PATH = "/debug/echo"

CONFIG = f"""
[events]
compression = true
[admin]
bind = ""
[debug]
echo_path = "{ECHO_PATH}"
[limits]
max_message_bytes = 16777216
max_fragments = 262144
frames_per_second = 1000000
[log]
format = "json"
"""
"""Autobahn sends up to 16 MiB in a message, one message in 65,536 frames, and half a million frames without a break."""


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("port", "read", "write", "send-buffer", "seed"):
        parser.add_argument(f"--{name}", type=int, default=0)
    given = parser.parse_args()
    config = loads(CONFIG)
    observe.configure(config.log.level, config.log.format)
    listener = UnkindListener(
        given.port, read=given.read, write=given.write, send_buffer=given.send_buffer, seed=given.seed
    )
    serve(config, given=Inherited(public=(listener,)))


if __name__ == "__main__":
    main()
