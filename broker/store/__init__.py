"""The Redis layout, and everything that reads or changes it, as operations without I/O.

An operation is a generator of requests (:mod:`broker.store.request`); :func:`~broker.store.drive.run_sync` and
:func:`~broker.store.drive.run` carry them to Redis, so that the daemon, the command line and any publisher share one
implementation. Whatever must be atomic is a Lua script.
"""
