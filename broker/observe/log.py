"""structlog, set up once: text on a terminal, JSON otherwise, journal priorities under systemd.

Everything goes to stderr. A stderr that has gone away, or that nobody reads, is ignored: a broker does not die of its
log.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import IO, Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from broker.observe.escape import escape_text
from broker.observe.redact import HIDDEN, is_secret_field, redact, redact_text
from broker.observe.sink import Sink

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "exception": 40, "critical": 50}
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "exception": 3, "critical": 2}

_HARMLESS = frozenset({int, float, bool, type(None)})

MAX_CHARACTERS = 500
"""Of a field that is cut: what it holds may be a stranger's, such as the path of a request."""

_threshold = _LEVELS["info"]


def get_logger(**fields: object) -> Any:
    """Return a logger with `fields` bound to it; its methods take an event (a short sentence) and fields."""
    logger = structlog.get_logger(**fields)
    return logger.bind() if structlog.is_configured() else logger  # else each line would put it together anew


def set_level(level: str) -> None:
    """Let lines below `level` (debug, info, warning, error) go unsaid, for every logger that there is, from now on."""
    global _threshold  # noqa: PLW0603  one process has one log
    _threshold = _LEVELS[level]
    logging.getLogger().setLevel(max(_threshold, logging.INFO))


def configure(level: str = "info", format: str = "auto", stream: IO[str] | None = None) -> None:  # noqa: A002  as the key is called
    """Set logging up for the whole process; `format` is auto, json or text. May be called again."""
    out = stream if stream is not None else sys.stderr
    journal = _is_journal(out, os.environ)
    as_json = format == "json" or (format == "auto" and (journal or not out.isatty()))
    sink = Sink(out, _lines_lost(as_json, journal))
    shared: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True)
        if as_json
        else structlog.processors.TimeStamper("%H:%M:%S"),
    ]
    final: list[Processor] = [*_rendering(as_json, colors=out.isatty() and not os.environ.get("NO_COLOR"))]
    if journal:
        final.append(_journal_priority)
    structlog.configure(
        processors=[_below_threshold, *shared, *final],
        logger_factory=lambda *_: _Stream(sink),
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sink)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        )
    )
    logging.root.handlers[:] = [handler]
    set_level(level)


def _rendering(as_json: bool, colors: bool) -> list[Processor]:
    if as_json:
        return [
            structlog.processors.format_exc_info,
            redact_event,
            structlog.processors.JSONRenderer(_as_json),
        ]
    return [
        structlog.processors.format_exc_info,
        redact_event,
        structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=0),
    ]


_encode = json.JSONEncoder(ensure_ascii=False, default=str).encode


def _as_json(event: EventDict, **_: object) -> str:
    return _encode(event)


def redact_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Hide every secret in a log line, whatever field it is in, escape what is no text, and cut what is too long."""
    for name, value in event.items():
        if is_secret_field(name):
            if value:
                event[name] = HIDDEN
        elif name == "exception" and isinstance(value, str):  # the one field that has lines
            event[name] = "\n".join(map(redact, value.split("\n")))
        elif type(value) is str:
            text = redact_text(escape_text(value))
            event[name] = text if len(text) <= MAX_CHARACTERS or name == "event" else text[:MAX_CHARACTERS] + "…"
        elif type(value) not in _HARMLESS:
            event[name] = redact(value)
    return event


def _below_threshold(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    if _LEVELS.get(method, 20) < _threshold:
        raise structlog.DropEvent
    return event


def _logger_name(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    record = event.get("_record")
    if record is not None:
        event["logger"] = record.name
    return event


def _journal_priority(_logger: WrappedLogger, method: str, line: Any) -> str:
    return f"<{_PRIORITIES.get(method, 6)}>{line}"


def _is_journal(stream: IO[str], environ: Mapping[str, str]) -> bool:
    """Tell whether this very stream is connected to the journal, as systemd.exec(5) describes JOURNAL_STREAM."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _lines_lost(as_json: bool, journal: bool) -> Callable[[int], str]:
    """Return what makes the line that tells of lost lines, in the form of all the others."""

    def line(lost: int) -> str:
        event = {"event": "lines of this log were lost: nobody read it", "lost": lost, "level": "warning"}
        text = json.dumps(event) if as_json else f"[{event['level']}] {event['event']} lost={lost}"
        return (_journal_priority(None, "warning", text) if journal else text) + "\n"

    return line


class _Stream:
    """What structlog hands finished lines to."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def _write(self, line: str) -> None:
        self._sink.write(line + "\n")

    msg = debug = info = warning = error = exception = critical = fatal = log = _write
