"""The configuration of a broker that is to run, looked at for all that would keep it from starting."""

from collections.abc import Iterator
from pathlib import Path

from broker.cli.target import load_config
from broker.config import Config, ConfigError, Problem, check_files, load
from broker.store.errors import SealError
from broker.store.master_key import open_sealer


def load_service(path: Path | None, dev: bool) -> Config:
    """Read the configuration of a broker that is to run; the dev broker brings the store that others must have.

    Raises:
        ConfigError: with every problem there is.
    """
    if dev:
        return load_config(path, dev, checks=(_check_certificate,))
    return load(path, checks=(check_files, _check_store, _check_certificate, _check_master_key))


def _check_store(config: Config) -> Iterator[Problem]:
    from broker.link.address import Address
    from broker.link.directory import socket_path
    from broker.link.errors import StartupError

    if config.redis.url != "embedded":
        try:
            Address.parse(config.redis.url)
        except ValueError as error:
            yield Problem("redis.url", str(error))
    elif config.redis.data_dir is not None:
        try:
            socket_path(config.redis.data_dir)
        except StartupError as error:
            yield Problem("redis.data_dir", str(error), given=("redis.url",))


def _check_certificate(config: Config) -> Iterator[Problem]:
    from broker.http.certificate import server_context

    if config.server.tls_certificate is not None and config.server.tls_key is not None:
        try:
            server_context(config.server.tls_certificate, config.server.tls_key)
        except ConfigError as error:
            yield from error.problems


def _check_master_key(config: Config) -> Iterator[Problem]:
    try:
        open_sealer(config.redis.master_key_file)
    except SealError as error:
        yield Problem("redis.master_key_file", str(error).removeprefix("redis.master_key_file "))
