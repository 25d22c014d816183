"""Logs: their shapes, and what is never in them."""

import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import structlog

from broker.observe import configure, get_logger, redact_text, set_level
from broker.observe.connection import log_close
from protocol.codes import CloseCode

KEY = "nr_live_Abc-def_123"


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leave logging as it was."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:], logging.root.level = handlers, level
    set_level("info")


@pytest.fixture
def out() -> io.StringIO:
    """Return what the log is written to."""
    return io.StringIO()


def test_json_lines(out: io.StringIO) -> None:
    """Away from a terminal each line is one JSON object with time, level, event and fields."""
    configure(stream=out)
    get_logger(session="abc").bind(org="acme").info("session opened", peak=3)
    line = json.loads(out.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "session opened", "level": "info", "session": "abc", "org": "acme", "peak": 3}


@attrs.define
class Ended:
    """A connection that is over."""

    opened_at: float = 0.0
    close_code: int = CloseCode.RESTARTING
    close_reason: str = ""
    closed_by: str = "us"
    peak_bytes: int = 0
    sent: tuple[int, int] = (0, 0)


def test_a_close_code_is_a_number(out: io.StringIO) -> None:
    """In text, too, a code is what it is on the wire, and not how Python shows it."""
    configure(format="text", stream=out)
    log_close(get_logger(), "events", Ended())
    assert " code=1012 " in out.getvalue()


def test_text_lines(out: io.StringIO) -> None:
    """Text is for people: no JSON, no colours unless on a terminal."""
    configure(format="text", stream=out)
    get_logger().warning("slow consumer", session="abc")
    assert "warning" in out.getvalue()
    assert out.getvalue().endswith("slow consumer session=abc\n")
    assert "\x1b" not in out.getvalue()


def test_the_level_can_be_changed_for_loggers_that_exist(out: io.StringIO) -> None:
    """A reload changes the level of sessions that were opened before it."""
    configure(stream=out)
    log = get_logger().bind(session="abc")
    log.debug("unheard")
    set_level("debug")
    log.debug("heard")
    set_level("error")
    log.warning("unheard")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["heard"]


@pytest.mark.parametrize("format_", ["json", "text"])
def test_no_secret_is_ever_logged(out: io.StringIO, format_: str) -> None:
    """Whatever field or text a credential is in, it does not come out, tracebacks and the standard library included."""
    configure(format=format_, stream=out)
    log = get_logger()
    log.info("request", path=f"/ws/?token={KEY}&x=1", headers={"Authorization": f"Bearer {KEY}"}, raw=KEY.encode())
    log.info("key %s", KEY, secret_key="hunter2", items=[{"ticket": "hunter2"}], url="redis://u:hunter2@h/0")
    log.info("ticket", path="/ws?ticket=hunter2", protocol="signalbox, bearer.hunter2")
    try:
        raise ValueError(f"no such key: {KEY} redis://:hunter2@h redis://u:p@hunter2@h")
    except ValueError as error:
        log.exception("failed", error=error)
    logging.getLogger("trio-websocket").warning("GET /ws?token=%s", "hunter2")
    assert "hunter2" not in out.getvalue()
    assert "Abc-def" not in out.getvalue()
    assert "ValueError" in out.getvalue()


@pytest.mark.parametrize("format_", ["json", "text"])
def test_what_a_stranger_writes_moves_no_cursor(out: io.StringIO, format_: str) -> None:
    """Control characters, line separators and changes of direction come out escaped, and hide no secret."""
    configure(format=format_, stream=out)
    hostile = "\x00\x08\n\r\x1b]0;pwned\x07\x1b[2J\x7f\x85\x9b2J\u2028\u2029\u202e\u2066"
    get_logger().warning(f"refused {hostile}", path=f"/api/v1/status/{hostile}", headers={hostile: [hostile]})
    get_logger().info("request", path=f"/ws/?token=\x1c{KEY}\u2028hunter2", raw=f"\x9b{KEY}".encode())
    try:
        raise ValueError(hostile)
    except ValueError as error:
        get_logger().exception("failed", error=error)
    lines = out.getvalue().replace("\n", "")
    assert lines.isprintable()
    assert "\\x1b]0;pwned\\x07" in lines.replace("\\\\", "\\")
    assert "hunter2" not in lines
    assert "Abc-def" not in lines


def test_a_traceback_keeps_its_lines(out: io.StringIO) -> None:
    """It is the only thing in a log that has some, and is read by people."""
    configure(format="text", stream=out)
    try:
        raise ValueError("why")
    except ValueError:
        get_logger().exception("failed")
    assert "\n    raise ValueError" in out.getvalue()


def test_long_fields_are_cut(out: io.StringIO) -> None:
    """A path of 16 KB is in the log with its beginning, without the secret that the cut went through."""
    configure(stream=out)
    get_logger().warning("refused", path="/" + "é" * 480 + "?token=hunter2hunter2" + "x" * 16_000)
    path = json.loads(out.getvalue())["path"]
    assert path == "/" + "é" * 480 + "?token=[redacted]"
    get_logger().warning("refused", path="x" * 16_000)
    assert json.loads(out.getvalue().splitlines()[-1])["path"] == "x" * 500 + "…"


def test_other_writing_is_not_escaped(out: io.StringIO) -> None:
    """Only what a terminal acts on is."""
    configure(stream=out)
    get_logger().info("Grüße\t👩\u200d💻", name="日本\xa0語")
    line = json.loads(out.getvalue())
    assert (line["event"], line["name"]) == ("Grüße\t👩\u200d💻", "日本\xa0語")


def test_redaction_leaves_other_text_alone() -> None:
    """What is no secret stays readable."""
    text = "GET /ws/control/acme?since=5 redis://h:6379/0 user@host nr_test"
    assert redact_text(text) == text


def test_journal_lines_carry_priorities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When stderr is the journal, as JOURNAL_STREAM says, each line begins with its syslog priority."""
    path = tmp_path / "journal"
    with path.open("w") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        configure(stream=stream)
        get_logger().info("one")
        get_logger().error("two")
        logging.getLogger("other").warning("three")
    one, two, three = path.read_text().splitlines()
    assert one.startswith('<6>{"event": "one"')
    assert two.startswith("<3>{")
    assert three.startswith("<4>{")


def test_a_closed_stderr_is_survived() -> None:
    """A log that cannot be written is lost, and nothing else happens."""
    stream = io.StringIO()
    configure(stream=stream)
    stream.close()
    get_logger().error("unheard")
    logging.getLogger("other").error("unheard")


def test_stderr_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing of the log goes to stdout, which belongs to commands' output."""
    configure(stream=sys.stderr)
    get_logger().info("here")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "here" in captured.err
