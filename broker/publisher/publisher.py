"""The Publisher: events and control messages over one pooled Redis connection."""

import os
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.connection import parse_url
from redis.retry import Retry

from broker.config.model import History
from broker.publisher.event import MAX_PUBLICATION_BYTES, encode_event
from broker.store.applied import Applied, Status
from broker.store.apply import apply
from broker.store.drive import run_sync
from broker.store.history import HistorySettings, publish_event
from broker.store.layout import Layout
from broker.store.limits import LogLimits
from broker.store.request import Operation
from protocol.control import (
    ApprovalResolvedInput,
    ControlInput,
    KeyRotatedInput,
    PolicyInvalidatedInput,
    StateChangeInput,
)
from protocol.errors import ProtocolError
from protocol.states import Outcome, State, parse_outcome, parse_state

DEFAULT_URL: Final = "redis://127.0.0.1:6379"

T = TypeVar("T")


class Refused(Exception):
    """The store did not apply a control message; ``applied`` is its decision, the text says why and what to do."""

    def __init__(self, message: str, applied: Applied) -> None:
        super().__init__(message)
        self.applied = applied


class Publisher:
    """Publishes events and control messages. Safe to share between threads, and across a fork.

    ``url`` is ``redis://``, ``rediss://`` or ``unix://``, or a redis-py client that does not decode replies; by default
    ``SIGNALBOX_REDIS__URL``, else the local Redis. ``prefix`` is the brokers' ``redis.prefix``, by default
    ``SIGNALBOX_REDIS__PREFIX``. ``actor`` is recorded with every control message that names no other. ``history`` says
    which namespaces keep events, by default what the brokers have settled. An event may have ``max_publication_bytes``.
    ``limits`` bound the logs that control messages are appended to, by default as the brokers do.

    Control messages are durable: when a call returns, the message is in the organization's log and every broker will
    deliver it. Each has a message_id, so that a call that failed may be repeated with the same one and takes effect
    once. All of them raise ValueError for arguments that the protocol does not allow, Refused when the store did not
    apply the message, and redis.exceptions.RedisError when it cannot be told whether it did.
    """

    def __init__(
        self,
        url: "str | redis.Redis | None" = None,
        *,
        prefix: str | None = None,
        actor: str | None = None,
        history: Mapping[str, History] | None = None,
        max_publication_bytes: int = MAX_PUBLICATION_BYTES,
        limits: LogLimits | None = None,
    ) -> None:
        if prefix is None:
            prefix = os.environ.get("SIGNALBOX_REDIS__PREFIX", "")
        self.layout = Layout(prefix)
        self.client = url if isinstance(url, redis.Redis) else _connect(url)
        self._owns_client = not isinstance(url, redis.Redis)
        self._actor = actor
        self._limits = limits
        self._max_publication_bytes = max_publication_bytes
        self._history = HistorySettings(history)

    def broadcast(self, channel: str, event_type: str, data: Any = None) -> int:
        """Publish an event to all subscribers of a channel; returns how many brokers heard it.

        Raises ValueError or TypeError for what no broker would deliver (see :func:`broker.publisher.encode_event`), and
        redis.exceptions.RedisError.
        """
        payload = encode_event(channel, event_type, data, time.time(), self._max_publication_bytes)
        return self.run(publish_event(self.layout, channel, payload, self._history)).receivers

    def state_change(
        self,
        organization_id: str,
        workflow_id: str,
        state: State | str,
        reason: str | None = None,
        *,
        version: int | None = None,
        force: bool = False,
        actor: str | None = None,
        message_id: str | None = None,
        updated_at: int | None = None,
    ) -> Applied:
        """Give a workflow a state: Normal, Flagged, Tripped, Paused or Killed, in any case.

        ``version`` is counted on from the stored one unless given. ``updated_at`` is unix seconds, by default now by
        the server's clock. Of ``reason`` 4,096 characters are kept. Only ``force`` leaves Killed.
        """
        return self._apply(
            organization_id,
            lambda: StateChangeInput(
                workflow_id, parse_state(state), version=version, reason=reason, updated_at=updated_at,
                message_id=message_id,
            ),
            actor,
            force=force,
        )  # fmt: skip

    def kill(
        self,
        organization_id: str,
        workflow_id: str,
        reason: str | None = None,
        *,
        force: bool = False,
        actor: str | None = None,
        message_id: str | None = None,
    ) -> Applied:
        """Kill a workflow, for good."""
        return self.state_change(
            organization_id, workflow_id, State.KILLED, reason, force=force, actor=actor, message_id=message_id
        )

    def pause(
        self,
        organization_id: str,
        workflow_id: str,
        reason: str | None = None,
        *,
        force: bool = False,
        actor: str | None = None,
        message_id: str | None = None,
    ) -> Applied:
        """Pause a workflow until it is resumed."""
        return self.state_change(
            organization_id, workflow_id, State.PAUSED, reason, force=force, actor=actor, message_id=message_id
        )

    def resume(
        self,
        organization_id: str,
        workflow_id: str,
        reason: str | None = None,
        *,
        force: bool = False,
        actor: str | None = None,
        message_id: str | None = None,
    ) -> Applied:
        """Let a workflow run: Normal. With ``force`` a killed one too."""
        return self.state_change(
            organization_id, workflow_id, State.NORMAL, reason, force=force, actor=actor, message_id=message_id
        )

    def policy_invalidated(
        self,
        organization_id: str,
        policy_id: str,
        new_version: int,
        *,
        actor: str | None = None,
        message_id: str | None = None,
    ) -> Applied:
        """Tell an organization's agents that a policy changed; ``new_version`` is from 0 to 2^53 - 1."""
        return self._apply(
            organization_id, lambda: PolicyInvalidatedInput(policy_id, new_version, message_id=message_id), actor
        )

    def key_rotated(
        self,
        organization_id: str,
        key_id: str,
        new_version: int,
        *,
        actor: str | None = None,
        message_id: str | None = None,
    ) -> Applied:
        """Tell an organization's agents that a key changed; this changes no key of the broker's own."""
        return self._apply(organization_id, lambda: KeyRotatedInput(key_id, new_version, message_id=message_id), actor)

    def approval_resolved(
        self,
        organization_id: str,
        approval_id: str,
        workflow_id: str,
        execution_id: str,
        outcome: Outcome | str,
        note: str | None = None,
        *,
        resolved_at: int | None = None,
        actor: str | None = None,
        message_id: str | None = None,
    ) -> Applied:
        """Tell an organization's agents how an approval ended: approved or denied. ``resolved_at`` is unix seconds."""
        return self._apply(
            organization_id,
            lambda: ApprovalResolvedInput(
                approval_id, workflow_id, execution_id, parse_outcome(outcome), note, resolved_at, message_id
            ),
            actor,
        )

    def run(self, operation: Operation[T]) -> T:
        """Run any operation of :mod:`broker.store` over this publisher's connection."""
        return run_sync(self.client, operation)

    def close(self) -> None:
        """Close the connections, unless the client was given."""
        if self._owns_client:
            self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _apply(
        self, organization_id: str, make: Callable[[], ControlInput], actor: str | None, *, force: bool = False
    ) -> Applied:
        try:
            message = make()
            applied = self.run(
                apply(
                    self.layout,
                    organization_id,
                    message,
                    actor=self._actor if actor is None else actor,
                    force=force,
                    limits=self._limits,
                )
            )
        except ProtocolError as error:
            raise ValueError(error.message) from None
        if applied.status is Status.APPLIED:
            return applied
        raise Refused(_why(organization_id, message, applied), applied)


def _why(organization_id: str, message: ControlInput, applied: Applied) -> str:
    assert isinstance(message, StateChangeInput), "only state changes are refused"
    workflow = f"workflow {message.workflow_id} of {organization_id}"
    if applied.status is Status.TERMINAL:
        return (
            f"{workflow} is Killed, and Killed is terminal: its agents have been told to stop for good. "
            f"To make it {message.state} all the same, use force (--force on the command line)"
        )
    return (
        f"{workflow} is at version {applied.version}, and version {message.version} is not newer or too large: "
        f"{message.state} was dropped. Leave the version out to count on from the stored one"
    )


def _connect(url: str | None) -> redis.Redis:
    url = url or os.environ.get("SIGNALBOX_REDIS__URL") or DEFAULT_URL
    if url == "embedded":
        raise ValueError("the embedded Redis has no address of its own: give the unix:// URL of its socket")
    options: dict[str, Any] = {} if url.startswith("unix:") else {"socket_keepalive": True}
    options |= {
        "socket_timeout": 5.0,
        "socket_connect_timeout": 5.0,
        "health_check_interval": 30,
        "retry": Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), 3),
    }
    options |= parse_url(url)  # type: ignore[no-untyped-call]  # of redis-py
    options.pop("timeout", None)  # of a pool that makes callers wait for a connection, which this one does not
    return redis.Redis.from_pool(redis.ConnectionPool(**options))
