"""The edge of the program, where it really is a program."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from broker.store.layout import Layout
from tests.cli.conftest import Shell
from tests.conftest import Valkey

SIGNALBOX = [sys.executable, "-m", "broker"]


def test_a_bug_is_one_sentence(shell: Shell, valkey: Valkey) -> None:
    """Even what nobody foresaw ends without a traceback, in exit status 1."""
    valkey.client.hset(Layout().meta("acme"), "seq", "what no Signalbox writes")
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


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_all_are_killed_though_nobody_reads(shell: Shell, extra: list[str]) -> None:
    """A pipe into `head` ends what is said about a kill of everything, not the kill."""
    shell("keys", "add", "--org", "acme")
    for number in range(3):
        shell("pause", "acme", f"wf-{number}")
    command = [*SIGNALBOX, "kill", "acme", "--all", *extra, "--config", str(shell.config)]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        subprocess.run(command, stdout=writer, stderr=subprocess.DEVNULL)
    finally:
        os.close(writer)
    assert [found["state"] for found in shell.json("status", "acme") if found["type"] == "workflow"] == ["Killed"] * 3


def test_an_output_that_is_full(shell: Shell) -> None:
    """A full disk is no bug of ours."""
    with Path("/dev/full").open("wb") as full:
        command = [*SIGNALBOX, "keys", "list", "--json", "--config", str(shell.config)]
        shell("keys", "add", "--org", "acme")
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 1
    assert result.stderr == "signalbox: the output cannot be written: No space left on device.\n"


def test_closed_streams(shell: Shell) -> None:
    """A program may have closed stdout and stdin: there is nothing to say then, and nothing to read."""
    shell("keys", "add", "--org", "acme")
    listing, publishing = (
        subprocess.run(
            ["sh", "-c", 'exec "$@" <&- >&-', "sh", *SIGNALBOX, *command, "--config", str(shell.config)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in (["keys", "list", "--json"], ["publish", "workflow:a", "t", "-"])
    )
    assert (listing.returncode, listing.stderr) == (0, "")
    assert publishing.returncode == 2
    assert "is not JSON" in publishing.stderr


def test_a_command_imports_only_what_it_needs() -> None:
    """A kill does not wait for the daemon's modules, nor for trio."""
    code = (
        "import sys; from click.testing import CliRunner; from broker.cli.app import signalbox; "
        "CliRunner().invoke(signalbox, ['kill', '--help']); print(*sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"broker.cli.change", "broker.store.apply"} <= set(result.stdout.split())
    assert not {"trio", "broker.daemon", "structlog"} & set(result.stdout.split())
