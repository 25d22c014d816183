"""`check-config`, `default-config`, and how every command finds its configuration."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from broker.cli.app import signalbox
from broker.config import Config, loads
from broker.config.load import DEFAULT_PATH
from broker.link.embedded import EmbeddedServer
from tests.conftest import Valkey

Write = Callable[[str], Path]


def run(*args: str) -> Result:
    """Run a command as it is."""
    return CliRunner().invoke(signalbox, args, prog_name="signalbox")


def test_check_config_names_every_problem(write_config: Write) -> None:
    """Each problem has a line on stdout with key and line, and the exit status is 1."""
    path = write_config('[server]\nbind = "here"\n[limits]\nmax_fragments = 0\n')
    result = run("check-config", "--config", str(path))
    assert result.exit_code == 1
    assert result.stdout == (
        "server.bind: must be host:port, [v6]:port or unix:/path (line 2)\n"
        "limits.max_fragments: must be between 1 and 1000000, not 0 (line 4)\n"
        'redis.data_dir: is needed with redis.url = "embedded", so that state outlives a restart\n'
    )
    assert result.stderr == f"signalbox: 3 problems in {path}.\n"


def test_check_config_looks_at_the_files_too(write_config: Write) -> None:
    """A certificate that is not there is found before the broker is started with it."""
    path = write_config('[server]\ntls_certificate = "/no/c"\ntls_key = "/no/k"\n[redis]\nurl = "redis://h"')
    result = run("check-config", "--config", str(path))
    assert result.exit_code == 1
    assert "server.tls_key: /no/k cannot be read: No such file or directory (line 3)" in result.stdout


def test_check_config_looks_into_the_files(write_config: Write, tmp_path: Path) -> None:
    """What is no certificate, or no master key, is found before the broker is started with it."""
    junk = tmp_path / "junk"
    junk.write_text("junk")
    path = write_config(
        f'[server]\ntls_certificate = "{junk}"\ntls_key = "{junk}"\n'
        f'[redis]\nurl = "redis://h"\nmaster_key_file = "{junk}"\n'
    )
    assert run("check-config", "--config", str(path)).stdout.splitlines() == [
        f"server.tls_certificate: {junk} is no certificate in PEM form (line 2)",
        f"redis.master_key_file: {junk} must hold 64 hex digits, as `openssl rand -hex 32` makes them (line 6)",
    ]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://:hunter2@localhost/abc", "the path of a Redis URL is the number of the db"),
        ("redis://:hunter2@localhost?foo=1", "unknown option 'foo'"),
        ("redis://:hunter2@localhost?db=-3", "the db of a Redis URL is a number from 0"),
        ("redis://:hunter2@localhost?db=x", "an invalid value for 'db'"),
        ("redis://:hunter2@localhost?ssl_ca_certs=/x", "the option 'ssl_ca_certs' needs a rediss:// URL"),
        ("rediss://:hunter2@localhost?ssl_ca_certs=/x", "No such file or directory"),
        ("redis://:hunter2@local..host", "no host name"),
    ],
)
def test_a_redis_url_that_no_link_can_use(url: str, says: str, write_config: Write) -> None:
    """What the broker would stumble over at its start is found before, and said by every command alike."""
    path = str(write_config(f'[redis]\nurl = "{url}"'))
    for command in (["check-config"], ["serve"], ["keys", "list"]):
        result = run(*command, "--config", path)
        assert result.exit_code == 1
        assert "redis.url: " in result.output
        assert says in result.output
        assert "hunter2" not in result.output
        assert "(line 2)" in result.output or command == ["keys", "list"]


def test_check_config_finds_a_data_dir_that_is_too_long(write_config: Write) -> None:
    """The store's socket is in that directory, and the path of a socket is short."""
    result = run("check-config", "--config", str(write_config(f'[redis]\ndata_dir = "/{"x" * 100}"\n')))
    assert result.exit_code == 1
    assert "is too long for a unix socket: choose a shorter directory (line 2)" in result.stdout


def test_check_config_says_when_all_is_right(write_config: Write) -> None:
    """Nothing wrong is exit status 0."""
    path = write_config('[redis]\nurl = "redis://h"\n')
    result = run("check-config", "--config", str(path))
    assert (result.exit_code, result.stdout) == (0, f"{path} is right.\n")
    assert run("check-config", "--dev").exit_code == 0


def test_default_config_is_a_configuration() -> None:
    """What it prints can be written to a file and used."""
    result = run("default-config")
    assert result.exit_code == 0
    assert loads(result.stdout) == Config()


@pytest.mark.parametrize("command", [["check-config"], ["status", "acme"], ["serve"], ["tail", "workflow:a"]])
def test_config_and_dev_exclude_each_other(write_config: Write, command: list[str]) -> None:
    """Two brokers at once are wrong usage."""
    assert run(*command, "--dev", "--config", str(write_config(""))).exit_code == 2


@pytest.mark.parametrize("command", [["check-config"], ["status", "acme"], ["tail", "workflow:a"]])
def test_dev_goes_before_the_environment(
    write_config: Write, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who works with a broker whose file the environment names can still ask for the other one."""
    monkeypatch.setenv("SIGNALBOX_CONFIG", str(write_config("[servr]")))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    result = run(*command, "--dev")
    assert "dev broker" in result.output
    assert result.exit_code == (0 if command == ["check-config"] else 1)
    assert run(*command, "--dev", "--config", "other.toml").exit_code == 2


@pytest.mark.parametrize("command", ["check-config", "serve"])
def test_the_dev_brokers_certificate_is_looked_into(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What keeps the dev broker from starting is found by check-config, and before its store is started."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for key in ("CERTIFICATE", "KEY"):
        monkeypatch.setenv(f"SIGNALBOX_SERVER__TLS_{key}", "/no/file")
    result = run(command, "--dev")
    assert result.exit_code == 1
    assert "server.tls_key: /no/file cannot be read: No such file or directory" in result.output
    assert not list(tmp_path.iterdir())


def test_what_is_wrong_with_another_store_is_not_wrong_with_dev(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment says about [redis] is for others, and the dev broker does not even complain about it."""
    monkeypatch.setenv("SIGNALBOX_REDIS__DATA_DIR", "relative")
    monkeypatch.setenv("SIGNALBOX_REDIS__CLUSTER", "true")
    assert run("check-config", "--dev").exit_code == 0


@pytest.mark.parametrize("command", [["status", "acme"], ["keys", "list"], ["kill", "acme", "wf"]])
def test_a_missing_configuration_is_said(write_config: Write, command: list[str], tmp_path: Path) -> None:
    """A file that is not there, or not right, is one sentence and exit status 1."""
    result = run(*command, "--config", str(tmp_path / "none.toml"))
    assert result.exit_code == 1
    assert "cannot be read: No such file or directory" in result.stderr
    result = run(*command, "--config", str(write_config("[servr]\n")))
    assert result.exit_code == 1
    assert 'servr: unknown section, did you mean "server"? (line 1)' in result.stderr


def test_the_environment_alone_will_do(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container nobody needs a file."""
    monkeypatch.delenv("SIGNALBOX_CONFIG", raising=False)
    monkeypatch.setenv("SIGNALBOX_REDIS__URL", valkey.url)
    assert run("keys", "list").exit_code == 0
    if not DEFAULT_PATH.exists():
        assert run("check-config").stdout == "the configuration in the environment is right.\n"


def test_the_file_can_be_named_in_the_environment(write_config: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGNALBOX_CONFIG stands for --config."""
    monkeypatch.setenv("SIGNALBOX_CONFIG", str(write_config('[redis]\nurl = "redis://h"')))
    assert run("check-config").exit_code == 0


def test_nothing_names_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file where it is looked for, both ways out are said."""
    for name in [name for name in os.environ if name.startswith("SIGNALBOX_")]:
        monkeypatch.delenv(name)
    if not DEFAULT_PATH.exists():
        assert "Name a file with --config, or use --dev" in run("keys", "list").stderr


def test_serve_refuses_an_embedded_store_without_a_place(write_config: Write) -> None:
    """State that is gone after a restart is not what anybody wants of a service."""
    result = run("serve", "--config", str(write_config("")))
    assert result.exit_code == 1
    assert "redis.data_dir: is needed" in result.stderr


def test_redis_that_cannot_be_reached(write_config: Write, tmp_path: Path) -> None:
    """The address is named, the password is not."""
    result = run("keys", "list", "--config", str(write_config('[redis]\nurl = "redis://:hunter2@127.0.0.1:1"')))
    assert result.exit_code == 1
    assert "Redis at 127.0.0.1:1 cannot be reached: Connection refused.\n" in result.stderr
    assert "hunter2" not in result.output
    result = run("keys", "list", "--config", str(write_config(f'[redis]\ndata_dir = "{tmp_path}"')))
    assert result.exit_code == 1
    assert "no broker with an embedded store runs here" in result.stderr


def test_no_dev_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--dev without a dev broker tells where it was looked for, and how to start one."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    result = run("keys", "list", "--dev")
    assert result.exit_code == 1
    where = tmp_path / f"signalbox-dev-{os.getuid()}" / "valkey.sock"
    said = f"no dev broker of yours runs here: nothing answers at {where}."
    assert result.stderr == f"signalbox: {said}\nStart one with: make run\n"


@pytest.mark.parametrize("command", [["kill", "dev", "demo"], ["keys", "list"], ["status", "dev"]])
async def test_dev_is_not_what_the_environment_names(
    command: list[str], valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    """A store that the environment names, for publishers or another broker, is never taken for the dev broker's."""
    server = EmbeddedServer(tmp_path / "production")
    await nursery.start(server.run)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for name, value in {"URL": valkey.url, "DATA_DIR": str(tmp_path / "production")}.items():
        monkeypatch.setenv(f"SIGNALBOX_REDIS__{name}", value)
        assert "no dev broker of yours runs here" in run(*command, "--dev").stderr
        monkeypatch.delenv(f"SIGNALBOX_REDIS__{name}")
    assert valkey.client.dbsize() == 0


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["--help"],
        ["serve", "--help"],
        ["check-config", "--help"],
        ["default-config", "--help"],
        ["keys", "--help"],
        ["keys", "add", "--help"],
        ["keys", "list", "--help"],
        ["keys", "revoke", "--help"],
        ["keys", "rotate", "--help"],
        ["publish", "--help"],
        ["kill", "--help"],
        ["pause", "--help"],
        ["resume", "--help"],
        ["status", "--help"],
        ["tail", "--help"],
    ],
)
def test_help(command: list[str]) -> None:
    """Every command explains itself."""
    assert run(*command).output.startswith("Usage: signalbox")


BAD_URLS = (
    "ftp://h", "http://", "http://[::1", "http://h:99999", "http://h:0", "http://h:x", "http://u:pw@h", "http://a..b",
    "http://h/a b", "http://\udcff",
)  # fmt: skip


@pytest.mark.parametrize(
    "command",
    [
        ["nonsense"],
        ["kill", "acme"],
        ["kill", "acme", "wf", "--all"],
        ["kill", "a b", "wf"],
        ["kill", "acme", "wf", "--wait", "-1"],
        ["kill", "acme", "wf", "--wait", "nan"],
        ["kill", "acme", "wf", "--wait", "inf"],
        ["bench", "--rate", "inf"],
        ["bench", "--timeout", "nan"],
        ["bench", "--timeout", "0"],
        ["bench", "--timeout", "1e300"],
        ["keys", "add"],
        ["keys", "add", "--org", "acme", "--expires", "soon"],
        ["keys", "add", "--org", "acme", "--channel", "a\nb"],
        ["publish", "nocolon", "t"],
        ["publish", "workflow:a", "t", "{"],
        ["publish", "workflow:a", "t", "NaN"],
        ["publish", "workflow:a", "ping"],
        ["publish", "control:acme", "t"],
        ["tail"],
        ["tail", "workflow:a", "--url", "http://h"],
        ["tail", "workflow:a", "--url", "h:80", "--token", "t"],
        *(
            [command, *args, "--url", url, "--token", "t"]
            for command, *args in (["tail", "workflow:a"], ["bench"])
            for url in BAD_URLS
        ),
        ["tail", "control:a b"],
        ["tail", "control:a b", "--url", "http://127.0.0.1:1", "--token", "t"],
        ["tail", "workflow:\udcff"],
        ["kill", "acme", "wf", "--reason", "\udcff"],
        ["keys", "add", "--org", "acme", "--name", "\udcff"],
        ["publish", "workflow:a", "\udcff"],
        ["publish", "workflow:a", "t", '"\\ud800"'],
        ["publish", "workflow:a", "t", '"\udcff"'],
        ["publish", "workflow:a", "t", "99999999999999999999"],
        ["publish", "workflow:a", "t", "[" * 1000 + "]" * 1000],
        ["status", "{}"],
    ],
)
def test_wrong_usage_is_status_2(write_config: Write, command: list[str]) -> None:
    """What cannot be meant is refused before anything is contacted."""
    path = write_config('[redis]\nurl = "redis://127.0.0.1:1"')
    assert run(*command, *(["--config", str(path)] if command != ["nonsense"] else [])).exit_code == 2


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["kill", "acme", "wf", "--wait", "soon"], "'--wait': 'soon' is not a valid number."),
        (["bench", "--clients", "many"], "'--clients': 'many' is not a valid integer."),
        (["publish", "control:acme", "state_change"], "carries no events: kill, pause and resume have commands"),
        (
            ["keys", "seal", "--from", "/no/such/file"],
            "--from /no/such/file cannot be read: No such file or directory.",
        ),
        (["bench", "--clients", "1", "--url", "ws://127.0.0.1:1", "--token", "t"], "cannot connect to 127.0.0.1:1: "),
    ],
)
def test_what_was_wrong_is_named(write_config: Write, command: list[str], sentence: str) -> None:
    """A complaint speaks of the very argument, option or address that it is about."""
    assert sentence in run(*command, "--config", str(write_config('[redis]\nurl = "redis://127.0.0.1:1"'))).stderr


TAIL = ["tail", "workflow:a", "--url", "http://127.0.0.1:1"]


@pytest.mark.parametrize("end", ["\r", "\n", " ", "\udcff", "ü"])
@pytest.mark.parametrize(
    ("command", "variable"), [(TAIL, "SIGNALBOX_TOKEN"), (TAIL, "SIGNALBOX_SECRET"), (["bench"], "SIGNALBOX_TOKEN")]
)
def test_a_credential_that_cannot_be_sent_is_not_shown(
    write_config: Write, monkeypatch: pytest.MonkeyPatch, command: list[str], variable: str, end: str
) -> None:
    """A key that was read with its line end is refused in words that do not quote it."""
    path = write_config('[redis]\nurl = "redis://127.0.0.1:1"')
    monkeypatch.setenv("SIGNALBOX_TOKEN", "hunter2")
    monkeypatch.setenv(variable, f"hunter2{end}")
    result = run(*command, "--config", str(path))
    assert result.exit_code == 2
    assert f"{variable}'): must be printable ASCII" in result.stderr
    assert "hunter2" not in result.output
