"""The edge of the program, where it really is a program."""

import json
import os
import subprocess
import sys

from broker.store.layout import Layout
from tests.cli.conftest import Shell
from tests.conftest import Valkey

SIGNALBOX = [sys.executable, "-m", "broker"]


def test_a_bug_is_one_sentence(shell: Shell, valkey: Valkey) -> None:
    """Even what nobody foresaw ends without a traceback, in exit status 1."""
    valkey.client.hset(Layout().workflows("acme"), "wf", "what no Signalbox writes")
    command = [*SIGNALBOX, "status", "acme", "--config", str(shell.config)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("signalbox: this is a bug: ")
    assert "Traceback" not in result.stderr


def test_an_output_that_lacks_letters(shell: Shell) -> None:
    """Where stdout has not every letter, people get the rest, and programs JSON all the same."""
    shell("keys", "add", "--org", "acme")
    shell("pause", "acme", "wf", "--reason", "für Жанна 😀")
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    command = [*SIGNALBOX, "status", "acme", "--config", str(shell.config)]
    shown = subprocess.run(command, capture_output=True, env=environment, check=True).stdout.decode("latin-1")
    assert "für \\u0416" in shown
    assert "No agent of acme is connected." in shown
    lines = subprocess.run([*command, "--json"], capture_output=True, env=environment, check=True).stdout.splitlines()
    assert json.loads(lines[0])["reason"] == "für Жанна 😀"


def test_a_reader_that_goes_away() -> None:
    """A pipe into `head` ends quietly."""
    with subprocess.Popen([*SIGNALBOX, "default-config"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(10) in (0, 1)


def test_a_command_imports_only_what_it_needs() -> None:
    """A kill does not wait for the daemon's modules, nor for trio."""
    code = (
        "import sys; from click.testing import CliRunner; from broker.cli.app import signalbox; "
        "CliRunner().invoke(signalbox, ['kill', '--help']); print(*sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"broker.cli.change", "broker.store.apply"} <= set(result.stdout.split())
    assert not {"trio", "broker.daemon", "structlog"} & set(result.stdout.split())
