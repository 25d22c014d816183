"""Which broker a command is about: its configuration, and the Redis that it shares with publishers and commands."""

import getpass
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import attrs
import click
import redis
from click.core import ParameterSource
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from broker.cli.errors import Failure
from broker.cli.types import BrokerUrl, Credential
from broker.config import Config, ConfigError, Redis, load
from broker.config.load import DEFAULT_PATH, Check
from broker.publisher import Publisher
from broker.store.drive import run_sync
from broker.store.errors import DamagedKey, DamagedWorkflow, SealError, WrongSchema
from broker.store.layout import Layout
from broker.store.limits import LogLimits
from broker.store.master_key import open_sealer
from broker.store.request import Operation
from broker.store.schema import check_schema
from broker.store.sealer import Sealer
from broker.store.sealing import check_sealing

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_CONNECT_TIMEOUT = 5.0
_REPLY_TIMEOUT = 10.0


@attrs.define(eq=False)
class Target:
    """A broker's configuration and a connection to its Redis, made when first needed."""

    config: Config
    dev: bool
    _client: "redis.Redis | None" = None
    _checked: bool = False
    _sealer: Sealer | None = None

    @property
    def layout(self) -> Layout:
        """Names of keys and channels in that Redis."""
        return Layout(self.config.redis.prefix)

    @property
    def url(self) -> str:
        """The URL of the Redis; raises Failure for an embedded one whose place is unknown."""
        return redis_url(self.config, self.dev)

    @property
    def client(self) -> "redis.Redis":
        """A redis-py client that gives bytes."""
        if self._client is None:
            from broker.link.address import Address, open_client

            url = self.url
            try:
                Address.parse(url)
            except ValueError as error:
                raise Failure(f"redis.url: {error}.", "See: signalbox check-config") from None
            self._client = open_client(url, socket_connect_timeout=_CONNECT_TIMEOUT, socket_timeout=_REPLY_TIMEOUT)
        return self._client

    @property
    def sealer(self) -> Sealer:
        """What keeps the secrets of API keys, made sure to be this installation's; raises Failure if it is not."""
        if self._sealer is None:
            try:
                sealer = open_sealer(self.config.redis.master_key_file)
                self.run(check_sealing(self.layout, sealer))
            except SealError as error:
                raise Failure(f"{error}.") from None
            self._sealer = sealer
        return self._sealer

    @property
    def log_limits(self) -> LogLimits:
        """The bounds that this broker sets for an organization's log."""
        return LogLimits.of(self.config.control)

    @property
    def publisher(self) -> Publisher:
        """A publisher on the same connection, that acts for whoever runs this command."""
        return Publisher(
            self.client,
            prefix=self.config.redis.prefix,
            actor=actor(),
            history=self.config.events.history or None,
            max_publication_bytes=self.config.limits.max_publication_bytes,
            limits=self.log_limits,
        )

    def close(self) -> None:
        """Give the connection back."""
        if self._client is not None:
            self._client.close()

    def run(self, operation: Operation[T]) -> T:
        """Carry an operation of the store out; raises Failure when Redis cannot be reached or refuses."""
        with self.talking():
            return run_sync(self.client, operation)

    @contextmanager
    def talking(self) -> Iterator[None]:
        """Turn what goes wrong with Redis inside into a Failure, and make sure that its data is ours to touch."""
        try:
            if not self._checked:
                self._checked = True
                run_sync(self.client, check_schema(self.layout))
            yield
        except (DamagedKey, DamagedWorkflow, WrongSchema) as error:
            raise Failure(f"{error}.") from None
        except RedisError as error:
            raise self.unreachable(error) from None

    def unreachable(self, error: RedisError) -> Failure:
        """Say what went wrong with Redis, where, and what helps."""
        where = self._where()
        if isinstance(error, AuthenticationError):
            return Failure(f"Redis at {where} refuses the credentials in redis.url.")
        if isinstance(error, NoPermissionError):
            return Failure(f"Redis at {where} does not permit this user to do that: {error}")
        if isinstance(error, redis.exceptions.ConnectionError | redis.exceptions.TimeoutError):
            if self._store_is_held():
                return Failure(
                    f"the broker runs, but its embedded store does not answer at {where}.",
                    "Is it stopped, or waiting for the disk? The log of the broker says when it was started again.",
                )
            if self.dev:
                return Failure(
                    f"no dev broker of yours runs here: nothing answers at {where}.", "Start one with: make run"
                )
            if self.config.redis.url == "embedded":
                return Failure(
                    f"no broker with an embedded store runs here: nothing answers at {where}.",
                    "Is it started, and is this redis.data_dir the one that it uses?",
                )
            return Failure(f"Redis at {where} cannot be reached: {_cause(error)}.")
        return Failure(f"Redis at {where} refused: {_first_line(error)}.")

    def _store_is_held(self) -> bool:
        """Tell whether the store is an embedded one whose directory a broker holds."""
        if self.config.redis.url != "embedded":
            return False
        from broker.link.directory import DirectoryLock, dev_directory

        return DirectoryLock.is_held(self.config.redis.data_dir or dev_directory())

    def _where(self) -> str:
        """Return the address of the Redis without its password."""
        options = self.client.connection_pool.connection_kwargs
        return str(options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}")


def _cause(error: Exception) -> str:
    """Return what the system said; redis-py puts the address, which is said already, and a number around it."""
    from broker.link.reason import reason

    return reason(error.__context__) if isinstance(error.__context__, OSError) else _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def redis_url(config: Config, dev: bool) -> str:
    """Return the Redis URL that commands use for this configuration, deriving that of an embedded store."""
    if config.redis.url != "embedded":
        return config.redis.url
    from broker.link.directory import dev_directory, socket_path
    from broker.link.errors import StartupError

    if not dev and config.redis.data_dir is None:
        raise Failure(
            'redis.data_dir is needed with redis.url = "embedded": without it the store cannot be found.',
            "For the broker that `make run` started, use --dev.",
        )
    try:
        return f"unix://{quote(str(socket_path(config.redis.data_dir or dev_directory())))}"
    except StartupError as error:
        raise Failure(str(error)) from None


def read_config(path: Path | None, dev: bool) -> Config:
    """Return the configuration that --config or --dev means; raises Failure with everything that is wrong with it."""
    path = config_file(path, dev)
    try:
        return load_config(path, dev)
    except ConfigError as error:
        raise wrong_config(path, error) from None


def wrong_config(path: Path | None, error: ConfigError) -> Failure:
    """Return all that is wrong with a configuration as one failure."""
    return Failure("\n  ".join([f"{path or 'the configuration'} is wrong:", *map(str, error.problems)]))


def config_file(path: Path | None, dev: bool) -> Path | None:
    """Return the file that --config or --dev means, None for none: without either it is the default file.

    Where that is missing, environment variables alone will do; raises Failure if there are none.
    """
    path = named_file(path, dev)
    if dev or path is not None:
        return path
    if DEFAULT_PATH.exists():
        return DEFAULT_PATH
    if any(name.startswith("SIGNALBOX_") and "__" in name for name in os.environ):
        return None
    raise Failure(
        f"{DEFAULT_PATH} does not exist.",
        "Name a file with --config, or use --dev for the broker that `make run` started.",
    )


def named_file(path: Path | None, dev: bool) -> Path | None:
    """Return the file that --config or the environment names, None for none: --dev goes before the environment.

    Raises UsageError when both options were given.
    """
    if not dev:
        return path
    if click.get_current_context().get_parameter_source("config_path") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--config and --dev exclude each other.")
    return None


def load_config(path: Path | None, dev: bool, checks: Sequence[Check] = ()) -> Config:
    """Read a configuration, and look at it as `load` does; raises ConfigError."""
    if not dev:
        return load(path, checks=checks)
    # What is wrong with a store that is somebody else's keeps nobody from the dev broker.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SIGNALBOX_REDIS__")}
    return as_dev(load(path, environ, checks))


def as_dev(config: Config) -> Config:
    """Return the configuration of a broker to try things out: unsigned handshakes are admitted.

    Its store is its own, whatever the environment says in SIGNALBOX_REDIS__URL and the like, which publishers read too.
    """
    control = attrs.evolve(config.control, handshake_signature="optional")
    return attrs.evolve(config, control=control, redis=Redis())


def config_options(command: F) -> F:
    """Give a command --config and --dev."""
    command = click.option("--dev", is_flag=True, help="The dev broker of this machine, started by `make run`.")(
        command
    )
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="SIGNALBOX_CONFIG",
        show_envvar=True,
        metavar="FILE",
        help=f"The broker's configuration.  [default: {DEFAULT_PATH}]",
    )(command)


def target_options(command: F) -> F:
    """Give a command --config and --dev, and the Target that they mean as its first argument."""

    def with_target(*args: Any, config_path: Path | None, dev: bool, **options: Any) -> Any:
        with closing(Target(read_config(config_path, dev), dev)) as target:
            return command(target, *args, **options)

    with_target.__name__, with_target.__doc__ = command.__name__, command.__doc__
    if hasattr(command, "__click_params__"):
        with_target.__click_params__ = command.__click_params__  # type: ignore[attr-defined]  # click's own
    return config_options(with_target)  # type: ignore[return-value]  # it takes what click passes


def json_option(command: F) -> F:
    """Give a command --json."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON object per line on stdout, nothing else.")(
        command
    )


def broker_options(url_help: str, token_help: str) -> Callable[[F], F]:
    """Give a command --url and --token: the broker that it connects to as a client, and the API key to show it."""

    def with_broker(command: F) -> F:
        command = click.option(
            "--token", type=Credential(), metavar="KEY", envvar="SIGNALBOX_TOKEN", show_envvar=True, help=token_help
        )(command)
        return click.option("--url", type=BrokerUrl(), metavar="URL", help=url_help)(command)

    return with_broker


def actor() -> str:
    """Return who runs this command, for the record: `cli:alice@host`; behind sudo, the user who called it."""
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"cli:{user}@{socket.gethostname()}"
