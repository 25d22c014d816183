"""`signalbox check-config` and `signalbox default-config`."""

from pathlib import Path

import click

from broker.cli.errors import Failure
from broker.cli.output import counted
from broker.cli.service import load_service
from broker.cli.target import config_file, config_options
from broker.config import ConfigError, manual


@click.command()
@config_options
def check_config(config_path: Path | None, dev: bool) -> None:
    """Say everything that is wrong with a configuration, each with its key and line."""
    path = config_file(config_path, dev)
    name = path or ("the dev broker's configuration" if dev else "the configuration in the environment")
    try:
        load_service(path, dev)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(str(problem))
        raise Failure(f"{counted(len(error.problems), 'problem')} in {name}.") from None
    click.echo(f"{name} is right.")


@click.command()
def default_config() -> None:
    """Print the commented default configuration, which is also the manual of all settings."""
    click.echo(manual(), nl=False)
