"""`signalbox check-config` and `signalbox default-config`."""

from pathlib import Path

import click

from broker.cli.errors import Failure
from broker.cli.output import counted
from broker.cli.target import config_options, named_file
from broker.config import Config, ConfigError, Problem, check_files, load, manual
from broker.config.load import DEFAULT_PATH


@click.command()
@config_options
def check_config(config_path: Path | None, dev: bool) -> None:
    """Say everything that is wrong with a configuration, each with its key and line."""
    path = named_file(config_path, dev) or (None if dev else DEFAULT_PATH)
    name = str(path) if path is not None else "the dev broker's configuration"
    problems = _problems(path, dev)
    for problem in problems:
        click.echo(str(problem))
    if problems:
        raise Failure(f"{counted(len(problems), 'problem')} in {name}.")
    click.echo(f"{name} is right.")


def _problems(path: Path | None, dev: bool) -> list[Problem]:
    try:
        config: Config = load(path)
    except ConfigError as error:
        return error.problems
    return [] if dev else check_files(config)


@click.command()
def default_config() -> None:
    """Print the commented default configuration, which is also the manual of all settings."""
    click.echo(manual(), nl=False)
