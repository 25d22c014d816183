"""The command `signalbox`: the broker itself, and everything an operator does to it and through it."""

from broker.cli.app import main

__all__ = ["main"]
