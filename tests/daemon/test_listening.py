"""A broker that cannot listen where it should."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Valkey


@pytest.mark.parametrize(
    ("bind", "reason"),
    [
        ("127.0.0.1:{taken}", "Address already in use"),
        ("192.0.2.1:0", "Cannot assign requested address"),
        ("[fe80::1%nowhere]:0", "Name or service not known"),
        ("unix:{folder}/none/s", "No such file or directory"),
    ],
)
def test_where_nobody_can_listen(bind: str, reason: str, valkey: Valkey, tmp_path: Path) -> None:
    """It ends with one sentence that names the key, the address and what is wrong with it."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        bind = bind.format(taken=other.getsockname()[1], folder=tmp_path)
        path = tmp_path / "signalbox.toml"
        path.write_text(f'[redis]\nurl = "{valkey.url}"\n[server]\nbind = "{bind}"\n[admin]\nbind = ""\n')
        done = subprocess.run(
            [sys.executable, "-m", "broker", "serve", "--config", str(path)],
            env={**os.environ, "SIGNALBOX_LOG__LEVEL": "error"},
            stderr=subprocess.PIPE,
            text=True,
            timeout=20,
        )
    assert (done.returncode, done.stderr) == (1, f"signalbox: server.bind: cannot listen on {bind}: {reason}\n")
