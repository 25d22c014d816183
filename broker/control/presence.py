"""Presence: which agents are connected, for every broker to see."""

from broker.control.member import Member


class Presence:
    """Notes who is here."""

    def put(self, member: Member) -> None:
        """Note a session, or a change of it."""

    def remove(self, member: Member) -> None:
        """Note the end of a session."""
