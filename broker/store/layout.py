"""Where everything lives in Redis: the name of every key and of every channel."""

from typing import Any

import attrs

from broker.config import checks


def _check_prefix(instance: object, attribute: "attrs.Attribute[Any]", value: str) -> None:
    """Check it as the setting is checked; publishers bring one of their own."""
    try:
        checks.prefix(instance, attribute, value)
    except ValueError as error:
        raise ValueError(f"prefix {error}") from None


@attrs.frozen
class Layout:
    """Names of keys and channels, each with ``prefix`` before it.

    The braces in a key are a Redis Cluster hash tag: all of an organization's keys live in one slot, so that one script
    may touch them together. A prefix keeps two installations on one server apart (PUBLISH knows no database number).

    Raises ValueError for a prefix with braces, glob characters or spaces.
    """

    prefix: str = attrs.field(default="", validator=_check_prefix)

    def _org(self, organization_id: str, name: str) -> str:
        return f"{self.prefix}signalbox:{{{organization_id}}}:{name}"

    def workflows(self, organization_id: str) -> str:
        """Hash: workflow_id -> ``<version> <state> <JSON>``."""
        return self._org(organization_id, "workflows")

    def changed(self, organization_id: str) -> str:
        """Hash: workflow_id -> ``<ms of its last change> <highest version of Killed that was lifted by force>``."""
        return self._org(organization_id, "changed")

    def open(self, organization_id: str) -> str:
        """Hash: workflow_id -> ``<message_id of its open receipt> <expiry in unix ms>``."""
        return self._org(organization_id, "open")

    def meta(self, organization_id: str) -> str:
        """Hash: epoch, seq, ms, and how often the log was cut by its size cap (capped, capped_at)."""
        return self._org(organization_id, "meta")

    def log(self, organization_id: str) -> str:
        """Stream with ids ``<ms>-<seq>``: every control message of the organization in order."""
        return self._org(organization_id, "log")

    def live(self, organization_id: str) -> str:
        """Channel: ``<epoch> <seq> <ms> <wire JSON>`` of each entry as it is appended."""
        return self._org(organization_id, "live")

    def org_keys(self, organization_id: str) -> str:
        """Set: SHA-256 hex of each API key of the organization."""
        return self._org(organization_id, "keys")

    def claim(self, organization_id: str, message_id: str, kind: str, target: str) -> str:
        """String, expires: what came of the message with this id about this target."""
        return self._org(organization_id, f"claim:{message_id}/{kind}/{target}")

    def seen(self, organization_id: str, digest: str) -> str:
        """Hash, expires: who presented how many of the publications with this payload, and which one last."""
        return self._org(organization_id, f"seen:{digest}")

    def receipts(self, organization_id: str, message_id: str) -> str:
        """Hash, expires: the message, and a field for each broker and session that it was for."""
        return self._org(organization_id, f"receipts:{message_id}")

    def presence(self, organization_id: str, broker_id: str) -> str:
        """Hash, expires: session_id -> JSON about the sessions that a broker holds."""
        return self._org(organization_id, f"presence:{broker_id}")

    def brokers(self) -> str:
        """Hash: broker_id -> ``<last heartbeat in unix ms> <JSON>``."""
        return f"{self.prefix}signalbox:brokers"

    def key(self, key_hash: str) -> str:
        """Hash: one API key, named by the SHA-256 hex of the key."""
        return f"{self.prefix}signalbox:key:{key_hash}"

    def key_id(self, key_id: str) -> str:
        """String: the name of the hash of the API key with this key_id."""
        return f"{self.prefix}signalbox:keyid:{key_id}"

    def ticket(self, ticket_hash: str) -> str:
        """String, expires: the SHA-256 hex of the API key that the ticket with this SHA-256 hex was made with."""
        return f"{self.prefix}signalbox:ticket:{ticket_hash}"

    def key_changes(self) -> str:
        """Channel: a small JSON object for each change of a key."""
        return f"{self.prefix}signalbox:keys"

    def sealing(self) -> str:
        """String: the fingerprint of the master key that seals the secrets of API keys; absent where none does."""
        return f"{self.prefix}signalbox:sealing"

    def schema(self) -> str:
        """String: the version of this layout."""
        return f"{self.prefix}signalbox:schema"

    def history(self, channel: str) -> str:
        """Stream: the last events of a channel, where its namespace keeps history."""
        return f"{self.prefix}signalbox:history:{channel}"

    def history_settings(self) -> str:
        """String: JSON that says which namespaces keep how much history."""
        return f"{self.prefix}signalbox:history-settings"

    def event(self, channel: str) -> str:
        """The Redis channel of an event channel."""
        return f"{self.prefix}{channel}"

    def event_of(self, name: str) -> str | None:
        """The event channel of a Redis channel; None if it is not below the prefix."""
        return name[len(self.prefix) :] if name.startswith(self.prefix) else None

    def control(self, organization_id: str) -> str:
        """Channel: control input that any program may publish for an organization."""
        return f"{self.prefix}control:{organization_id}"

    def control_pattern(self) -> str:
        """The pattern that matches the control input of every organization."""
        return f"{self.prefix}control:*"

    def organization_of_control(self, name: str) -> str | None:
        """The organization of a control input channel; None for another channel. Not yet checked to be an id."""
        start = f"{self.prefix}control:"
        return name[len(start) :] if name.startswith(start) else None

    def organization_of_live(self, name: str) -> str | None:
        """The organization of a live channel; None for another channel."""
        start, end = f"{self.prefix}signalbox:{{", "}:live"
        if name.startswith(start) and name.endswith(end):
            return name[len(start) : -len(end)]
        return None
