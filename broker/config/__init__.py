"""Configuration: TOML read into frozen classes, with every problem named by its key and line."""

from broker.config.cross import check_files
from broker.config.errors import ConfigError, Problem
from broker.config.load import load, loads
from broker.config.manual import manual
from broker.config.model import (
    Admin,
    Config,
    Control,
    Debug,
    Events,
    History,
    Limits,
    Log,
    Redis,
    Server,
)

__all__ = [
    "Admin",
    "Config",
    "ConfigError",
    "Control",
    "Debug",
    "Events",
    "History",
    "Limits",
    "Log",
    "Problem",
    "Redis",
    "Server",
    "check_files",
    "load",
    "loads",
    "manual",
]
