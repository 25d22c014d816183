"""The program under test: a whole broker with its echo endpoint, on a listener that may be unkind.

python -m tests.conformance.broker [--port N] [--read N] [--write N] [--send-buffer N] [--seed N] [--tls]
"""

import argparse
import tempfile
from pathlib import Path

import trustme

from broker import observe
from broker.config import Config, loads
from broker.daemon import serve
from broker.daemon.inherit import Inherited
from tests.conformance.unkind import UnkindListener

ECHO_PATH = "/debug/echo"
TLS = "--tls"

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
    parser.add_argument(TLS, action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        run(given, loads(CONFIG + (certified(Path(directory)) if given.tls else "")))


def certified(directory: Path) -> str:
    """Make a certificate, and return the settings that name it."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    made = trustme.CA().issue_cert("127.0.0.1")
    made.cert_chain_pems[0].write_to_path(certificate)
    made.private_key_pem.write_to_path(key)
    return f'[server]\ntls_certificate = "{certificate}"\ntls_key = "{key}"\n'


def run(given: argparse.Namespace, config: Config) -> None:
    """Run a broker on the listener that is asked for."""
    observe.configure(config.log.level, config.log.format)
    listener = UnkindListener(
        given.port, read=given.read, write=given.write, send_buffer=given.send_buffer, seed=given.seed
    )
    serve(config, given=Inherited(public=(listener,)))


if __name__ == "__main__":
    main()
