"""Reading a configuration: the file, then credentials, then the environment, then all checks at once."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from broker.config.cross import cross_check
from broker.config.errors import ConfigError, Problem
from broker.config.lines import key_lines
from broker.config.model import Config
from broker.config.override import overrides
from broker.config.structure import structure

DEFAULT_PATH = Path("/etc/signalbox/signalbox.toml")


def load(path: Path | None, environ: Mapping[str, str] = os.environ) -> Config:
    """Read the file at `path` (None: defaults alone) with what `environ` overrides; raises ConfigError."""
    if path is None:
        return loads("", environ)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError([Problem("", f"{path} is not UTF-8")]) from None
    except OSError as error:
        raise ConfigError([Problem("", f"{path} cannot be read: {error.strerror or error}")]) from None
    return loads(text, environ)


def loads(text: str, environ: Mapping[str, str] | None = None) -> Config:
    """Read TOML from `text`, with what `environ` overrides; raises ConfigError with every problem there is."""
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([Problem("", f"not valid TOML: {error}")]) from None
    problems: list[Problem] = []
    sources: dict[str, str] = {}
    for item in overrides(environ or {}):
        key = f"{item.section}.{item.key}"
        sources[key] = item.source
        if item.problem is not None:
            problems.append(Problem(key, item.problem))
        elif isinstance(section := values.setdefault(item.section, {}), dict):
            section[item.key] = item.value
    config, found = structure(values)
    problems += found if config is None else cross_check(config)
    if problems or config is None:
        raise ConfigError(_placed(problems, key_lines(text), sources))
    return config


def _placed(problems: list[Problem], lines: dict[str, int], sources: dict[str, str]) -> list[Problem]:
    placed = [_place(problem, lines, sources) for problem in problems]
    return sorted(placed, key=lambda problem: (problem.line is None, problem.line or 0))


def _place(problem: Problem, lines: dict[str, int], sources: dict[str, str]) -> Problem:
    """Find the nearest line or source: a problem deep in a table is at worst said to be in that table."""
    key = problem.key
    while key:
        if key in sources:
            return Problem(problem.key, problem.message, source=sources[key])
        if key in lines:
            return Problem(problem.key, problem.message, line=lines[key])
        key = key.rpartition(".")[0]
    return problem
