"""The daemon: the one place that builds everything, and the life of the process around it."""

from broker.daemon.serve import serve

__all__ = ["serve"]
