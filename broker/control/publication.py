"""One entry of an organization's log, as it is delivered to sessions."""

from broker.control.message import Message
from broker.store import log
from protocol.codec import decode_control_server
from protocol.control import ApprovalResolved, KeyRotated, PolicyInvalidated, StateChange, wants_ack
from protocol.errors import ProtocolError
from protocol.states import State

REPLAYED = (ApprovalResolved, PolicyInvalidated, KeyRotated)
"""What a snapshot does not hold, and what is therefore sent again to a client that was away."""


Body = StateChange | ApprovalResolved | PolicyInvalidated | KeyRotated


class NotALogEntry(Exception):
    """A payload of a live channel that no script of ours has made."""


class Publication:
    """A control message with its place in the log; shared by all sessions that it goes to.

    Attributes:
        epoch, seq, ms: its place: which store, which number, and unix milliseconds by the store's clock.
        body: the decoded message; None for one that this version does not know, which takes its place and goes nowhere.
        message: the same, ready to be signed and framed.
        message_id: names it in acks and receipts.
        workflow_id: the workflow that it is about, None if it is about none.
        state: the new state, None if it is no state change.
        wants_ack: whether it is sent again until a client acknowledges it.
    """

    __slots__ = ("body", "epoch", "message", "message_id", "ms", "seq", "state", "wants_ack", "workflow_id")

    def __init__(self, epoch: str, seq: int, ms: int, payload: bytes) -> None:
        self.epoch = epoch
        self.seq = seq
        self.ms = ms
        self.body = body = _decode(payload)
        self.message = Message(payload)
        self.message_id = "" if body is None else body.message_id
        self.workflow_id = body.workflow_id if isinstance(body, StateChange | ApprovalResolved) else None
        self.state = body.state if isinstance(body, StateChange) else None
        self.wants_ack = body is not None and wants_ack(body)

    @property
    def kills(self) -> bool:
        """Whether this is a kill: never collapsed away, and sent again whatever follows."""
        return self.state is State.KILLED

    def is_for(self, bound_workflow: str | None) -> bool:
        """Tell whether a session is an addressee: its key is bound to this very workflow, or to none."""
        return bound_workflow is None or self.workflow_id is None or bound_workflow == self.workflow_id

    def __repr__(self) -> str:
        return f"<Publication {self.seq} {type(self.body).__name__} {self.workflow_id or ''} {self.state or ''}>"


def _decode(payload: bytes) -> Body | None:
    try:
        body = decode_control_server(payload)
    except ProtocolError:
        return None
    return body if isinstance(body, (StateChange, *REPLAYED)) else None


def parse_live(payload: bytes) -> Publication:
    """Read a message of a live channel: ``<epoch> <seq> <ms> <wire JSON>``.

    Raises:
        NotALogEntry: it is not of that form.
    """
    try:
        live = log.parse_live(payload)
    except ValueError:
        raise NotALogEntry("expected: epoch, seq, ms, JSON") from None
    return Publication(live.epoch, live.seq, live.ms, live.message)
