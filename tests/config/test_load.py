"""Reading a configuration, and saying what is wrong with one."""

from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.config import Config, ConfigError, History, Problem, check_files, load, loads


def problems(text: str, environ: dict[str, str] | None = None) -> list[str]:
    """Return what loading `text` complains about."""
    with pytest.raises(ConfigError) as caught:
        loads(text, environ)
    return [str(problem) for problem in caught.value.problems]


def test_a_file_overrides_defaults() -> None:
    """Keys that are given count, the others keep their defaults, and integers serve as durations."""
    config = loads('[server]\nbind = "[::1]:9000"\ndrain_timeout = 5\n[redis]\nurl = "unix:///run/redis.sock?db=2"')
    assert config.server.bind == "[::1]:9000"
    assert config.server.drain_timeout == 5.0
    assert config.redis.url == "unix:///run/redis.sock?db=2"
    assert config.control == Config().control


def test_history_is_a_table_of_namespaces() -> None:
    """Each namespace has its own bounds, whose defaults fill what is left out."""
    config = loads("[events.history]\nworkflow = {size = 5}\nepic = {ttl = 7.5}")
    assert dict(config.events.history) == {"workflow": History(5, 300.0), "epic": History(100, 7.5)}


def test_every_problem_is_found_with_its_key_and_line() -> None:
    """One run tells all that is wrong, in the file's order."""
    text = """\
[server]
bnd = "localhost:1"
bind = 5
drain_timeout = -1
tls_key = "/k.pem"

[evnts]
a = 1
[events]
namespaces = ["workflow", "control"]
ping_interval = true
[events.history]
workflow = {size = 0, x = 1}
"""
    assert problems(text) == [
        "server.tls_certificate: is needed with server.tls_key (line 1)",
        'server.bnd: unknown key, did you mean "bind"? (line 2)',
        "server.bind: must be a text in quotes, not 5 (line 3)",
        "server.drain_timeout: must be between 0 and 3600, not -1 (line 4)",
        'evnts: unknown section, did you mean "events"? (line 7)',
        "events.namespaces: \"control\" cannot be one: namespace 'control' belongs to the control plane (line 10)",
        "events.ping_interval: must be a number, not true (line 11)",
        "events.history.workflow.size: must be between 1 and 100000, not 0 (line 13)",
        "events.history.workflow.x: unknown key (line 13)",
    ]


def test_what_cannot_be_read_hides_nothing_else() -> None:
    """What settings must be to each other, and what is on the disk, is looked at although others are wrong."""
    text = """\
[server]
bind = 5
tls_key = "/none"
tls_certificate = "/none"
[redis]
data_dir = "here"
[limits]
max_fragments = "many"
outbox_bytes = 20000
[admin]
token_file = "/none"
"""
    with pytest.raises(ConfigError) as caught:
        loads(text, checks=(check_files,))
    assert [str(problem) for problem in caught.value.problems] == [
        "server.bind: must be a text in quotes, not 5 (line 2)",
        "server.tls_key: /none cannot be read: No such file or directory (line 3)",
        "server.tls_certificate: /none cannot be read: No such file or directory (line 4)",
        "redis.data_dir: must be an absolute path (line 6)",
        "limits.max_fragments: must be an integer, not a text (line 8)",
        "limits.outbox_bytes: must be at least limits.max_publication_bytes, for the largest event to fit (line 9)",
        "admin.token_file: /none cannot be read: No such file or directory (line 11)",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "[limits]\nmax_publication_bytes = 'small'\noutbox_bytes = 20000",
        "[server]\nbind = '0.0.0.0'\n[admin]\nbind = '127.0.0.1:8765'",
        "[events]\nnamespaces = ['control']\nhistory = {other = {}}",
        "[control]\nreplay_window = 'long'\nlog_retention = 60",
        "[redis]\nurl = 'http://h'",
        "server = 3\n[debug]\necho_path = '/echo'",
    ],
)
def test_nothing_is_concluded_from_what_is_wrong(text: str) -> None:
    """What a setting must be to another one is not known while that one is wrong itself."""
    text += "" if "[redis]" in text else "\n[redis]\nurl = 'redis://h'"
    with pytest.raises(ConfigError) as caught:
        loads(text, checks=(check_files,))
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[server]\ntls_key = '/k'", "server.tls_certificate: is needed with server.tls_key (line 1)"),
        ("[server]\ntls_certificate = '/c'", "server.tls_key: is needed with server.tls_certificate (line 1)"),
        ("[events]\nhistory = {other = {}}", 'events.history.other: "other" is not among events.namespaces (line 2)'),
        ("[admin]\nbind = '127.0.0.1:8765'", "admin.bind: must not be the public address, server.bind (line 2)"),
        ("[admin]\nbind = '0.0.0.0:8765'", "admin.bind: must not be the public address, server.bind (line 2)"),
        ("[admin]\nbind = 'localhost:8765'", "admin.bind: must not be the public address, server.bind (line 2)"),
        (
            "[server]\nbind = '[::]:9000'\n[admin]\nbind = '127.0.0.1:9000'",
            "admin.bind: must not be the public address, server.bind (line 4)",
        ),
        (
            "[server]\nbind = 'unix:/run/s'\n[admin]\nbind = 'unix:/run/s'",
            "admin.bind: must not be the public address, server.bind (line 4)",
        ),
        ("[redis]\ndata_dir = 'here'", "redis.data_dir: must be an absolute path (line 2)"),
        (
            "[limits]\noutbox_bytes = 20000",
            "limits.outbox_bytes: must be at least limits.max_publication_bytes, for the largest event to fit (line 2)",
        ),
        (
            "[control]\nreplay_window = 4000",
            "control.log_retention: must be at least control.replay_window, which is read from that log (line 1)",
        ),
        (
            "[events]\nhistory = 3",
            "events.history: must be a table of namespaces, as in workflow = {size = 100, ttl = 300} (line 2)",
        ),
        ("server = 3", "server: must be a table, not 3 (line 1)"),
        ("[limits]\nmax_fragments = 1.0", "limits.max_fragments: must be an integer, not 1.0 (line 2)"),
        ("[limits]\nclose_timeout = nan", "limits.close_timeout: must be a number, not nan (line 2)"),
        (
            "[limits]\nmax_fragments = 2020-01-01",
            "limits.max_fragments: must be an integer, not a date or time (line 2)",
        ),
        ("[log]\nlevel = 'loud'", 'log.level: must be one of "debug", "info", "warning", "error", not "loud" (line 2)'),
        (
            "[debug]\necho_path = 'echo'",
            'debug.echo_path: must be a path of plain characters, as in "/debug/echo" (line 2)',
        ),
        (
            "[debug]\necho_path = '/ws/echo'",
            "debug.echo_path: must not begin with one of the broker's own: api, health, healthz, ws (line 2)",
        ),
        ("[limits]\nmax_fragments = " + "1" * 5000, "not valid TOML: a number has too many digits (at line 2)"),
        (
            "[limits]\nmax_fragments = " + "1" * 4300 + "\nmax_connections = " + "1" * 4301,
            "not valid TOML: a number has too many digits (at line 3)",
        ),
        ("x = " + "[" * 20000, "not valid TOML: its arrays or tables are nested too deeply"),
        (
            "[limits]\nmax_fragments = 0x" + "f" * 5000,
            "limits.max_fragments: must be an integer, not an integer of more than 64 bits (line 2)",
        ),
        (
            "[limits]\nclose_timeout = 1" + "0" * 400,
            "limits.close_timeout: must be a number, not an integer of more than 64 bits (line 2)",
        ),
        (
            "[log]\nlevel = 0x" + "f" * 5000,
            "log.level: must be a text in quotes, not an integer of more than 64 bits (line 2)",
        ),
        ('[redis]\ndata_dir = "/a\\u0000b"', "redis.data_dir: must be a path, which has no zero byte (line 2)"),
        ("[log]\nlevel =", "not valid TOML: Invalid value (at end of document)"),
        (
            "[server]\ntrusted_proxies = ['10.0.0.1/8']",
            'server.trusted_proxies: "10.0.0.1/8" is no whole network: is 10.0.0.0/8 meant? (line 2)',
        ),
        (
            "[server]\ntrusted_proxies = ['proxy']",
            'server.trusted_proxies: "proxy" is no IP address or network such as 10.0.0.0/8 (line 2)',
        ),
        (
            '[redis]\nurl = "redis://:hunter2[@h"',
            (
                "redis.url: cannot be read: is the port a number, and is each special character of the password "
                "percent-encoded? (line 2)"
            ),
        ),
    ],
)
def test_a_single_problem(text: str, complaint: str) -> None:
    """Each kind of mistake has a sentence of its own."""
    assert problems(text) == [complaint]


@pytest.mark.parametrize(
    "bind",
    [
        "127.0.0.1",
        "127.0.0.1:",
        ":80",
        "h:70000",
        "::1:80",
        "h:８０",
        "unix:relative",
        "a..b:80",
        "a\\u0000b:80",
        "unix:/\\u0000",
        "unix:/" + "x" * 107,
    ],
)
def test_a_bind_that_nobody_can_listen_on(bind: str) -> None:
    """What is no host:port, [v6]:port or unix:/path is refused."""
    assert problems(f'[server]\nbind = "{bind}"')[0].startswith("server.bind: ")


@pytest.mark.parametrize("name", ["", "control", "signalbox", "a:b", "a*", "a?", "a[b", "a\\n", "x" * 256])
def test_a_namespace_that_cannot_be(name: str) -> None:
    """Reserved names, and those that would read as a pattern, are refused."""
    assert problems(f'[events]\nnamespaces = ["{name}"]')[0].startswith("events.namespaces: ")


@pytest.mark.parametrize(
    "url", ["http://h", "h:6379", "redis://", "redis://:hunter2@h:port", "unix://", "rediss:hunter2"]
)
def test_a_wrong_redis_url_is_never_repeated(url: str) -> None:
    """A URL may hold a password, so a complaint about it names the key alone."""
    (complaint,) = problems(f'[redis]\nurl = "{url}"')
    assert complaint.startswith("redis.url: ")
    assert "hunter2" not in complaint


def test_the_password_is_not_in_the_repr() -> None:
    """A configuration that ends up in a log or a traceback does not show the store's password."""
    assert "hunter2" not in repr(loads('[redis]\nurl = "redis://:hunter2@h"'))


def test_the_environment_overrides_the_file() -> None:
    """Texts are bare, numbers and tables as in TOML, arrays either way; the file's value does not matter then."""
    config = loads(
        '[server]\nbind = "wrong"\n',
        {
            "SIGNALBOX_SERVER__BIND": "0.0.0.0:80",
            "SIGNALBOX_SERVER__TLS_KEY": "",
            "SIGNALBOX_LIMITS__CLOSE_TIMEOUT": "2.5",
            "SIGNALBOX_EVENTS__NAMESPACES": "a, b",
            "SIGNALBOX_EVENTS__HISTORY": "{a = {size = 3}}",
            "SIGNALBOX_SERVER__TRUSTED_PROXIES": '["::1"]',
            "SIGNALBOX_LOG__LEVEL": "debug",
            "SIGNALBOX_HOME": "no key, no concern",
        },
    )
    assert config.server.bind == "0.0.0.0:80"
    assert config.server.tls_key is None
    assert config.limits.close_timeout == 2.5
    assert config.events.namespaces == ("a", "b")
    assert config.events.history["a"].size == 3
    assert config.server.trusted_proxies == ("::1",)
    assert config.log.level == "debug"


def test_problems_of_the_environment_name_the_variable() -> None:
    """Who set a variable wrong is not sent to look in the file."""
    environ = {
        "SIGNALBOX_LIMITS__OUTBOX_BYTES": "many",
        "SIGNALBOX_LIMITS__MAX_FRAGMENTS": "1" * 5000,
        "SIGNALBOX_EVENTS__NAMESPACES": "[" * 20000,
        "SIGNALBOX_SERVER__FOO": "1",
        "SIGNALBOX_LIMITS__MAX_CONNECTIONS": "0",
        "SIGNALBOX_SERVR__BIND": "1",
    }
    assert sorted(problems("[limits]\nmax_connections = 5", environ)) == [
        "events.namespaces: must be an array of texts, written as in TOML (SIGNALBOX_EVENTS__NAMESPACES)",
        "limits.max_connections: must be between 1 and 10000000, not 0 (SIGNALBOX_LIMITS__MAX_CONNECTIONS)",
        "limits.max_fragments: must be an integer, written as in TOML (SIGNALBOX_LIMITS__MAX_FRAGMENTS)",
        "limits.outbox_bytes: must be an integer, written as in TOML (SIGNALBOX_LIMITS__OUTBOX_BYTES)",
        "server.foo: unknown key (SIGNALBOX_SERVER__FOO)",
        'servr: unknown section, did you mean "server"? (SIGNALBOX_SERVR__BIND)',
    ]


def test_systemd_credentials(tmp_path: Path) -> None:
    """A credential is the value of its key, or the file of a key that names one; others are not ours."""
    (tmp_path / "redis.url").write_text("redis://:pw@h\n")
    (tmp_path / "server.tls_key").write_text("PEM")
    (tmp_path / "server.tls_certificate").write_text("PEM")
    (tmp_path / "something-else").write_text("x")
    config = loads('[redis]\nurl = "embedded"', {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert config.redis.url == "redis://:pw@h"
    assert config.server.tls_key == tmp_path / "server.tls_key"
    config = loads("", {"CREDENTIALS_DIRECTORY": str(tmp_path), "SIGNALBOX_REDIS__URL": "redis://other"})
    assert config.redis.url == "redis://other"


def test_credentials_that_make_no_sense(tmp_path: Path) -> None:
    """An unknown key and unreadable bytes are named by their credential."""
    (tmp_path / "redis.passwort").write_text("x")
    (tmp_path / "redis.prefix").write_bytes(b"\xff")
    assert problems("", {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == [
        "redis.prefix: cannot be read: not UTF-8 (credential redis.prefix)",
        "redis.passwort: unknown key (credential redis.passwort)",
    ]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a directory and bytes that are not UTF-8 are said as such."""
    wrong = tmp_path / "wrong.toml"
    wrong.write_bytes(b"\xff")
    for path, message in [
        (tmp_path / "none.toml", "cannot be read: No such"),
        (tmp_path, "Is a dir"),
        (wrong, "UTF-8"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load(path, {})


def test_files_that_the_configuration_names(tmp_path: Path) -> None:
    """check_files looks at the disk: missing and empty files, and an embedded store without a place for its data."""
    (tmp_path / "empty").touch()
    config = loads(f'[server]\ntls_certificate = "{tmp_path}/empty"\ntls_key = "{tmp_path}/none"\n')
    assert [str(problem) for problem in check_files(config)] == [
        f"server.tls_certificate: {tmp_path}/empty is empty",
        f"server.tls_key: {tmp_path}/none cannot be read: No such file or directory",
        'redis.data_dir: is needed with redis.url = "embedded", so that state outlives a restart',
    ]
    assert check_files(loads('[redis]\nurl = "redis://h"')) == []


@pytest.mark.parametrize(
    ("bind", "exposed"),
    [
        ("127.0.0.1:0", False),
        ("127.1.2.3:80", False),
        ("localhost:80", False),
        ("[::1]:80", False),
        ("unix:/run/s", False),
        ("0.0.0.0:80", True),
        ("[::]:80", True),
        ("10.0.0.1:80", True),
        ("broker.example.com:80", True),
    ],
)
def test_the_echo_endpoint_is_refused_where_others_could_reach_it(bind: str, exposed: bool) -> None:
    """It asks for no key, so that it is for loopback and unix sockets alone."""
    text = f'[redis]\nurl = "redis://h"\n[server]\nbind = "{bind}"\n[debug]\necho_path = "/debug/echo"'
    complaint = f"debug.echo_path: is for tests: it is refused while server.bind is {bind}"
    assert [str(problem) for problem in check_files(loads(text))] == [complaint] * exposed


def test_the_model_checks_itself() -> None:
    """A configuration built in code is held to the same bounds as a file."""
    with pytest.raises(ValueError, match="must be between"):
        attrs.evolve(Config().limits, max_fragments=0)


@given(st.dictionaries(st.sampled_from(["server", "redis", "limits", "x"]), st.text(max_size=20), max_size=3))
def test_whatever_stands_in_a_file_is_a_config_error_at_worst(tables: dict[str, str]) -> None:
    """No text at all makes loading raise anything else."""
    text = "\n".join(f"[{name}]\n{body}" for name, body in tables.items())
    problems: list[Problem] | None = None
    try:
        loads(text)
    except ConfigError as error:
        problems = error.problems
    assert problems is None or problems


@pytest.mark.parametrize(
    "origin",
    ["app.example.com", "https://app.example.com/", "https://", "HTTPS://a", "https://a:port", "*", "null"],
)
def test_what_is_no_origin(origin: str) -> None:
    """An origin is a scheme and a host, as browsers send it: a path or a wildcard would never match."""
    with pytest.raises(ConfigError, match=r"events\.allowed_origins.*no origin"):
        loads(f'[events]\nallowed_origins = ["{origin}"]')
    loads('[events]\nallowed_origins = ["https://a.example", "http://localhost:3000", "http://[::1]:3000"]')


def test_the_proxy_protocol_needs_proxies() -> None:
    """With the PROXY protocol it must be said who may speak it."""
    with pytest.raises(ConfigError, match=r"server\.trusted_proxies: is needed"):
        loads("[server]\nproxy_protocol = true")
    loads('[server]\nproxy_protocol = true\ntrusted_proxies = ["unix"]')
