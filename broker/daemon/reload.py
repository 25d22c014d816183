"""A new configuration for a running broker: taken as a whole or not at all, and without closing a connection."""

from collections.abc import Awaitable, Callable

import attrs

from broker import observe
from broker.config import Config, ConfigError
from broker.daemon.build import Broker, load_tls
from broker.daemon.notify import Notifier
from broker.observe import get_logger

NEEDS_RESTART = frozenset(
    {
        "server.bind",
        "server.io_uring_from",
        "redis.url",
        "redis.data_dir",
        "redis.prefix",
        "redis.master_key_file",
        "control.ack_timeout",
        "control.ack_attempts",
        "control.replay_window",
        "control.log_retention",
        "control.log_max_entries",
        "admin.bind",
        "log.format",
        "debug.echo_path",
    }
)
"""What is built into the running parts; everything else takes effect at once, for new connections at the latest."""


def changed_keys(old: Config, new: Config) -> list[str]:
    """Return the keys, as "section.key", in which two configurations differ."""
    return [
        f"{section.name}.{key.name}"
        for section in attrs.fields(Config)
        for key in attrs.fields(type(getattr(new, section.name)))
        if getattr(getattr(old, section.name), key.name) != getattr(getattr(new, section.name), key.name)
    ]


def effective(old: Config, new: Config) -> Config:
    """Return the new configuration with what needs a restart as it was."""
    sections = {}
    for section in attrs.fields(Config):
        was, is_now = getattr(old, section.name), getattr(new, section.name)
        kept = {
            key.name: getattr(was, key.name)
            for key in attrs.fields(type(is_now))
            if f"{section.name}.{key.name}" in NEEDS_RESTART
        }
        sections[section.name] = attrs.evolve(is_now, **kept)
    return attrs.evolve(new, **sections)


@attrs.define(eq=False)
class Reloader:
    """Reads the configuration again when it is asked to.

    Args:
        broker: whose configuration it is.
        notifier: is told that it begins, and how it ended.
        reread: reads the whole configuration; raises ConfigError. None: there is nothing to read.
        status: how the broker is, in one line, for the service manager.
    """

    broker: Broker
    notifier: Notifier
    reread: Callable[[], Config] | None
    status: Callable[[], str]

    async def run(self, asked: Callable[[], Awaitable[None]]) -> None:
        """Reload whenever `asked` returns, until cancelled."""
        while True:
            await asked()
            self.notifier.reloading()
            self.notifier.ready(self.reload())

    def reload(self) -> str:
        """Reload once; return what came of it, in one line."""
        log = get_logger(part="broker")
        if self.reread is None:
            log.warning("not reloaded: there is no configuration to read")
            return self.status()
        old = self.broker.config
        try:
            new = self.reread()
            # Also when no setting has changed: a renewed certificate comes in the files of the old one.
            tls = load_tls(new)
        except ConfigError as error:
            problems = [str(problem) for problem in error.problems]
        else:
            changed = changed_keys(old, new)
            waiting = sorted(NEEDS_RESTART.intersection(changed))
            self.broker.reconfigure(effective(old, new), tls)
            observe.set_level(new.log.level)
            log.info("configuration reloaded", changed=[key for key in changed if key not in NEEDS_RESTART])
            if waiting:
                log.warning("a restart is needed for these settings to take effect", keys=waiting)
                return f"{self.status()}; a restart is needed for {', '.join(waiting)}"
            return self.status()
        log.error("not reloaded: the configuration is wrong, and the former one stays in force", problems=problems)
        return f"{self.status()}; reload refused: {problems[0]}".replace("\n", " ")
