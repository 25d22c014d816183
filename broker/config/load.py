"""Reading a configuration: the file, then credentials, then the environment, then all checks at once."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path

import attrs

from broker.config.cross import cross_check
from broker.config.errors import ConfigError, Problem
from broker.config.lines import key_lines
from broker.config.model import Config
from broker.config.override import overrides
from broker.config.structure import structure
from broker.config.toml import read_toml

DEFAULT_PATH = Path("/etc/signalbox/signalbox.toml")

Check = Callable[[Config], Iterable[Problem]]
"""Looks at a whole configuration, in which there are defaults for values that cannot be read."""


def load(path: Path | None, environ: Mapping[str, str] = os.environ, checks: Sequence[Check] = ()) -> Config:
    """Read the file at `path` (None: defaults alone) with what `environ` overrides, as `loads` does.

    Raises:
        ConfigError: with every problem there is.
    """
    if path is None:
        return loads("", environ, checks)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError([Problem("", f"{path} is not UTF-8")]) from None
    except OSError as error:
        raise ConfigError([Problem("", f"{path} cannot be read: {error.strerror or error}")]) from None
    return loads(text, environ, checks)


def loads(text: str, environ: Mapping[str, str] | None = None, checks: Sequence[Check] = ()) -> Config:
    """Read TOML from `text`, with what `environ` overrides.

    Args:
        text: the content of a file.
        environ: environment variables.
        checks: what is looked at besides, one after another; no key is complained about by two of them.

    Raises:
        ConfigError: with every problem there is.
    """
    try:
        values = read_toml(text)
    except ValueError as error:
        raise ConfigError([Problem("", f"not valid TOML: {error}")]) from None
    problems: list[Problem] = []
    sources: dict[str, str] = {}
    for item in overrides(environ or {}):
        key = f"{item.section}.{item.key}"
        sources[key] = item.source
        if item.section not in attrs.fields_dict(Config):
            sources.setdefault(item.section, item.source)
        if item.problem is not None:
            problems.append(Problem(key, item.problem))
        elif isinstance(section := values.setdefault(item.section, {}), dict):
            section[item.key] = item.value
    config, found = structure(values)
    problems += found
    for check in (cross_check, *checks):
        wrong = {problem.key for problem in problems}
        problems += [problem for problem in check(config) if not _is_open(problem, wrong)]
    if problems:
        raise ConfigError(_placed(problems, key_lines(text), sources))
    return config


def _is_open(problem: Problem, wrong: Set[str]) -> bool:
    """Tell whether a problem might be gone once what is known to be wrong, by its keys, is right."""
    ours = [f"{key}." for key in (problem.key, *problem.given)]
    return any(mine.startswith(f"{key}.") or f"{key}.".startswith(mine) for mine in ours for key in wrong)


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
