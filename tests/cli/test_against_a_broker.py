"""The command line against a broker that it started itself."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from tests.cli.conftest import Shell
from tests.conftest import Valkey
from tests.support.process import INTERRUPTIBLE, BrokerProcess, broker_process


@pytest.fixture
def shell(valkey: Valkey, write_config: Callable[[str], Path]) -> Shell:
    """Return a way to run commands on the Redis that the broker uses."""
    return Shell(
        write_config(f'[redis]\nurl = "{valkey.url}"\n[server]\nbind = "127.0.0.1:0"\n[admin]\nbind = "127.0.0.1:0"\n')
    )


@pytest.fixture
def broker(shell: Shell) -> Iterator[BrokerProcess]:
    """Return a running broker."""
    with broker_process(shell.config) as process:
        yield process


@contextmanager
def tailing(broker: BrokerProcess, key: dict[str, str], *args: str) -> "Iterator[subprocess.Popen[str]]":
    """Run `signalbox tail` through the broker; afterwards ctrl-C must end it in order."""
    command = [*INTERRUPTIBLE, sys.executable, "-m", "broker", "tail", "--url", broker.url, "--json", *args]
    credentials = {**os.environ, "SIGNALBOX_TOKEN": key["api_key"], "SIGNALBOX_SECRET": key["secret_key"]}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1, env=credentials
    )
    try:
        yield process
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()


def line(process: "subprocess.Popen[str]") -> dict[str, object]:
    """Return the next message that was printed."""
    assert process.stdout is not None
    found: dict[str, object] = json.loads(process.stdout.readline())
    return found


def remark(process: "subprocess.Popen[str]") -> str:
    """Return the next remark on stderr."""
    assert process.stderr is not None
    return process.stderr.readline()


def test_events_through_a_broker(shell: Shell, broker: BrokerProcess) -> None:
    """What is published arrives at whoever tails the channel through the broker, and at nobody else."""
    key = shell.json_line("keys", "add", "--org", "acme")
    with tailing(broker, key, "workflow:a") as process:
        assert remark(process) == "# listening on workflow:a\n"
        shell("publish", "workflow:b", "unheard")
        shell("publish", "workflow:a", "node_status", '{"status": "running"}')
        message = line(process)
        assert (message["type"], message["data"]) == ("node_status", {"status": "running"})


def test_an_agent_confirms_a_kill(shell: Shell, broker: BrokerProcess) -> None:
    """Tail of control:ORG is an agent's session: signed handshake, snapshot, kill, receipt; and status shows it."""
    key = shell.json_line("keys", "add", "--org", "acme", "--workflow", "wf")
    with tailing(broker, key, "control:acme") as process:
        assert line(process)["type"] == "initial_state"
        *_, summary = shell.json("kill", "acme", "wf", "--wait", "10")
        assert (summary["agents"], summary["confirmed"]) == (1, 1)
        message = line(process)
        assert (message["workflow_id"], message["state"], message["version"]) == ("wf", "Killed", 1)
        assert "signature" not in message
    assert broker.stop() == 0
    assert key["api_key"] not in "".join(broker.log)
    assert key["secret_key"] not in "".join(broker.log)


@pytest.mark.parametrize(
    ("token", "channel", "sentence"),
    [
        ("wrong", "workflow:a", "closed with 1008: Invalid or missing token."),
        ("wrong", "control:acme", "refused with 401"),
        ("right", "control:other", "refused with 403"),
        ("right", "workflow:a", "the broker refused workflow:a: this key may not see this channel."),
    ],
)
def test_refusals_of_a_broker(shell: Shell, broker: BrokerProcess, token: str, channel: str, sentence: str) -> None:
    """A refusal for good ends the command with the broker's own words."""
    key = shell.json_line("keys", "add", "--org", "acme", "--workflow", "wf")
    shown = key["api_key"] if token == "right" else token
    credentials = ("--token", shown, "--secret", key["secret_key"])
    refused = shell("tail", channel, "--url", broker.url, *credentials, status=1)
    assert sentence in refused.stderr


def test_a_broker_that_is_not_there(shell: Shell) -> None:
    """Nobody listening is said at once."""
    assert "127.0.0.1:1" in shell("tail", "workflow:a", "--url", "http://127.0.0.1:1", "--token", "x", status=1).stderr


def test_a_broker_without_tls(shell: Shell, broker: BrokerProcess) -> None:
    """An https:// URL of a broker that speaks plain HTTP is said to be that, not a version that is wrong."""
    command = ("tail", "workflow:a", "--url", f"https://{broker.where}", "--token", "t")
    assert f"wss://{broker.where}/ws/: it does not speak TLS." in shell(*command, status=1).stderr


def test_a_broker_with_a_certificate_that_is_not_trusted(shell: Shell, tmp_path: Path) -> None:
    """What is wrong with TLS is said at once, and so is that the URL is not one of a broker with TLS."""
    issued = trustme.CA().issue_cert("localhost", "127.0.0.1")
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    files = {"SIGNALBOX_SERVER__TLS_CERTIFICATE": str(certificate), "SIGNALBOX_SERVER__TLS_KEY": str(key)}
    with broker_process(shell.config, **files) as broker:
        for url, sentence in (
            (f"https://{broker.where}", "certificate verify failed"),
            (broker.url, "the connection was ended without an answer"),
        ):
            assert sentence in shell("tail", "workflow:a", "--url", url, "--token", "x", status=1).stderr


def test_tail_comes_back_after_a_restart(shell: Shell, broker: BrokerProcess) -> None:
    """When the broker goes, the tail says so and tries again, as a browser does."""
    key = shell.json_line("keys", "add", "--org", "acme")
    with tailing(broker, key, "workflow:a") as process:
        assert remark(process) == "# listening on workflow:a\n"
        broker.process.kill()
        assert remark(process).endswith("; trying again in 1 s\n")


def test_an_address_that_is_taken(shell: Shell, broker: BrokerProcess, tmp_path: Path) -> None:
    """A broker that cannot listen says which address, and exits 1."""
    config = tmp_path / "second.toml"
    config.write_text(shell.config.read_text().replace("127.0.0.1:0", broker.where, 1))
    command = [sys.executable, "-m", "broker", "serve", "--config", str(config)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert result.returncode == 1
    assert "ddress already in use" in result.stderr
    assert "Traceback" not in result.stderr


def test_wrong_credentials_for_redis(write_config: Callable[[str], Path], valkey: Valkey) -> None:
    """A Redis that refuses the broker's password ends it with a sentence without that password."""
    valkey.client.acl_setuser("somebody", enabled=True, passwords=["+right"])
    url = valkey.url.replace("unix://", "unix://somebody:hunter2@")
    config = write_config(f'[redis]\nurl = "{url}"\n[server]\nbind = "127.0.0.1:0"\n')
    result = subprocess.run(
        [sys.executable, "-m", "broker", "serve", "--config", str(config)], capture_output=True, text=True, timeout=30
    )
    assert result.returncode == 1
    assert "signalbox: " in result.stderr
    assert "hunter2" not in result.stderr
    assert "Traceback" not in result.stderr
