"""Tickets: each opens one event socket for the key that it was made with, soon and once.

A ticket may stand in a URL, which proxies and browsers write down: by the time that anybody reads it there it is used.
Only its hash is stored, and with that only the name of the key, which is looked up again when the ticket is taken: a
ticket opens nothing that its key would not open then.
"""

import hashlib
import secrets
from typing import Final

from broker.store.layout import Layout
from broker.store.replies import maybe_text
from broker.store.request import Operation, command

PREFIX: Final = "tkt_"
"""What every ticket begins with, so that it can be told from a key, and found in a log if it ever got there."""

MAX_CHARACTERS: Final = 128


def make_ticket(layout: Layout, key_hash: str, lifetime: int) -> Operation[str]:
    """Make a ticket for the key with this hash; it lives ``lifetime`` seconds."""
    ticket = PREFIX + secrets.token_urlsafe(32)
    yield command("SET", layout.ticket(_hash_of(ticket)), key_hash, "EX", lifetime)
    return ticket


def take_ticket(layout: Layout, ticket: str) -> Operation[str | None]:
    """Use a ticket up; returns the hash of its key, None for one that is used, too old or made up."""
    if not ticket.startswith(PREFIX) or len(ticket) > MAX_CHARACTERS:
        return None
    return maybe_text((yield command("GETDEL", layout.ticket(_hash_of(ticket)))))


def _hash_of(ticket: str) -> str:
    return hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).hexdigest()
