"""`signalbox publish` and `signalbox tail`, straight on Redis."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.publisher import Publisher
from tests.cli.conftest import Shell
from tests.conftest import Valkey
from tests.support.process import INTERRUPTIBLE


@contextmanager
def tailing(shell: Shell, *args: str) -> "Iterator[subprocess.Popen[str]]":
    """Run `signalbox tail` until it listens; afterwards ctrl-C must end it without a word."""
    command = [*INTERRUPTIBLE, sys.executable, "-m", "broker", "tail", *args, "--config", str(shell.config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == "# listening; ctrl-C ends it\n"
        yield process
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()


def line(process: "subprocess.Popen[str]") -> str:
    """Return the next line of output."""
    assert process.stdout is not None
    return process.stdout.readline()


def test_publish_reaches_redis(shell: Shell, valkey: Valkey) -> None:
    """The event is what broadcast() would publish, and who heard it is counted."""
    with valkey.client.pubsub(ignore_subscribe_messages=True) as pubsub:  # type: ignore[no-untyped-call]
        pubsub.subscribe("workflow:a")
        pubsub.get_message(timeout=5)
        result = shell.json_line("publish", "workflow:a", "node_status", '{"cost": 0.10, "n": [1]}')
        assert result == {"channel": "workflow:a", "type": "node_status", "receivers": 1}
        message = pubsub.get_message(timeout=5)
        assert message is not None
        event = json.loads(message["data"])
        assert isinstance(event.pop("timestamp"), float)
        assert event == {"type": "node_status", "channel": "workflow:a", "data": {"cost": 0.1, "n": [1]}}
        assert b"0.10" in message["data"]


def test_publish_tells_when_nobody_heard(shell: Shell) -> None:
    """An event that is lost, or that nobody can ever subscribe to, is worth a hint."""
    result = shell("publish", "workflow:a", "t")
    assert "heard by 0 brokers" in result.stdout
    assert "nobody will ever see" in result.stderr
    assert "not among events.namespaces" in shell("publish", "other:a", "t").stderr


def test_publish_reads_stdin(shell: Shell) -> None:
    """Data that is too long for a command line comes through a pipe."""
    assert "Published t" in shell("publish", "workflow:a", "t", "-", stdin='{"a": 1}').stdout
    assert "is not JSON" in shell("publish", "workflow:a", "t", "-", stdin=b'{"a": "\xff"}', status=2).stderr


def test_tail_for_programs(shell: Shell, valkey: Valkey) -> None:
    """Each event is one line of JSON, also when it was no JSON at all."""
    with tailing(shell, "workflow:a", "execution:*", "--json") as process:
        publisher = Publisher(valkey.client)
        publisher.broadcast("workflow:a", "one", {"x": "ü"})
        publisher.broadcast("workflow:b", "unheard")
        publisher.broadcast("execution:7", "two")
        valkey.client.publish("workflow:a", b"no JSON \xff")
        assert json.loads(line(process))["data"] == {"x": "ü"}
        assert json.loads(line(process))["channel"] == "execution:7"
        assert json.loads(line(process)) == {"channel": "workflow:a", "payload": "no JSON �"}


def test_tail_shows_what_no_broker_would_send(shell: Shell, valkey: Valkey) -> None:
    """Whatever anybody publishes neither ends a tail nor makes it print what is not JSON."""
    bad = ['"\\ud800"', '{"a": "\\ud800"}', "[" * 30000, '{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}', '{"a":']
    with tailing(shell, "workflow:a", "--json") as process, tailing(shell, "workflow:a") as for_people:
        for payload in bad:
            valkey.client.publish("workflow:a", payload)
            shown = json.loads(line(process), parse_constant=pytest.fail)
            assert shown == {"channel": "workflow:a", "payload": payload}
            assert line(for_people).endswith(f"  ?  {json.dumps(payload)}\n")
        valkey.client.publish("workflow:a", '{"type": "initial_state", "workflows": 7}')
        assert line(for_people).endswith("initial_state  nothing\n")


def test_tail_for_people(shell: Shell, valkey: Valkey) -> None:
    """A line has the time, the channel, the type and the data, and cannot steer the terminal."""
    with tailing(shell, "workflow:a") as process:
        Publisher(valkey.client).broadcast("workflow:a", "node_status", {"text": "\x1b[31m"})
        shown = line(process)
        assert shown.split(maxsplit=3)[1:] == ["workflow:a", "node_status", '{"text": "\\u001b[31m"}\n']


def test_tail_of_the_control_plane(shell: Shell, valkey: Valkey) -> None:
    """control:ORG shows what agents are told, not what somebody put in."""
    with tailing(shell, "control:acme") as process:
        valkey.client.publish("control:acme", "input is not shown")
        Publisher(valkey.client).kill("acme", "wf", "too\ncostly")
        shown = line(process).split(maxsplit=3)
        assert shown[1:] == ["control:acme", "state_change", "wf is Killed (version 1): too\\ncostly\n"]


def test_tail_comes_back_after_a_break(shell: Shell, valkey: Valkey) -> None:
    """When Redis drops the connection the tail says that it is blind, and goes on when it is back."""
    with tailing(shell, "workflow:a", "--json") as process:
        assert process.stderr is not None
        valkey.client.client_kill_filter(_type="pubsub")
        assert "is not seen" in process.stderr.readline()
        assert process.stderr.readline() == "# listening again\n"
        Publisher(valkey.client).broadcast("workflow:a", "after")
        assert json.loads(line(process))["type"] == "after"


def test_tail_refuses_a_pattern_of_organizations(shell: Shell) -> None:
    """Control planes are watched one at a time, on purpose."""
    assert "one organization at a time" in shell("tail", "control:*", status=2).stderr


def test_a_user_of_redis_who_may_not(valkey: Valkey, write_config: Callable[[str], Path]) -> None:
    """A least-privilege user hears what Redis does not permit, a wrong password that it is wrong."""
    valkey.client.acl_setuser(
        "reader", enabled=True, passwords=["+pw"], categories=["+@read", "+@connection"], keys=["*"]
    )
    for password, sentence in (("pw", "does not permit"), ("hunter2", "refuses the credentials")):
        config = write_config(f'[redis]\nurl = "{valkey.url.replace("unix://", f"unix://reader:{password}@")}"')
        refused = Shell(config)("publish", "workflow:a", "t", status=1)
        assert sentence in refused.stderr
        assert "hunter2" not in refused.stderr


@pytest.mark.parametrize("setting", ["timeout=1", "decode_responses=1", "socket_timeout=-1", "max_connections=-1"])
def test_a_url_with_settings_for_others(valkey: Valkey, write_config: Callable[[str], Path], setting: str) -> None:
    """What a URL says about the pools of others, which a broker passes over, is nothing to a command either."""
    shell = Shell(write_config(f'[redis]\nurl = "{valkey.url}?{setting}"'))
    shell("check-config")
    shell("keys", "list")
    with tailing(shell, "workflow:a") as process:
        valkey.client.publish("workflow:a", '{"type": "t", "data": 1}')
        assert line(process).endswith("workflow:a  t  1\n")
