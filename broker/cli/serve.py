"""`signalbox serve`: the broker."""

from functools import partial
from pathlib import Path

import click

from broker.cli.errors import Failure
from broker.cli.service import load_service
from broker.cli.target import config_file, config_options, wrong_config
from broker.config import ConfigError


@click.command()
@config_options
def serve(config_path: Path | None, dev: bool) -> None:
    """Run the broker until SIGTERM or ctrl-C.

    With --dev it brings its own store and a ready key, and prints how to try things out.
    """
    path = config_file(config_path, dev)
    try:
        config = load_service(path, dev)
    except ConfigError as error:
        raise wrong_config(path, error) from None
    from broker import observe
    from broker.daemon import serve as run_daemon

    observe.configure(config.log.level, config.log.format)
    try:
        run_daemon(config, dev=dev, reread=partial(load_service, path, dev))
    except BaseExceptionGroup as group:
        raise _failure(group) or group from None
    except Exception as error:  # noqa: BLE001  whatever is no sentence for an operator goes on its way
        raise _failure(error) or error from None


def _failure(error: BaseException) -> Failure | None:
    """Return the sentence for what keeps a broker from starting; None for a bug."""
    from broker.link.errors import StartupError
    from broker.store.errors import StoreError

    if isinstance(error, BaseExceptionGroup):
        return _failure(error.exceptions[0]) if len(error.exceptions) == 1 else None
    if isinstance(error, StartupError | StoreError | ConfigError):
        return Failure(str(error))
    if isinstance(error, OSError) and error.strerror:
        return Failure(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    return None
