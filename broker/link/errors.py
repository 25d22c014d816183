"""What can go wrong with a link, beyond the error replies of the server itself (`redis.exceptions`)."""

from __future__ import annotations

import redis.exceptions


class LinkDown(redis.exceptions.ConnectionError):
    """The link is not connected, or broke while a call was under way.

    In the second case nobody knows whether the server executed the command. It is one of redis-py's own
    `ConnectionError`s, so that code which serves both kinds of client needs to know one class only.
    """


class StartupError(Exception):
    """The broker cannot start with this server, address or directory; the text is one sentence for a human."""


class AuthenticationFailed(StartupError):
    """The server refused our credentials, or they do not allow the connection to be set up."""


class SubscriptionEnded(Exception):
    """A confirmation was awaited for a subscription that has been given up in the meantime."""
