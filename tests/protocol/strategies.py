"""Strategies for every message, and what else the property tests share."""

import string
from collections.abc import Callable
from typing import Any, get_args

import attrs
from hypothesis import settings
from hypothesis import strategies as st

from protocol import control, events
from protocol.errors import ProtocolError
from protocol.states import Outcome, State

examples = settings(deadline=None, derandomize=True, database=None, max_examples=150)
"""Property tests run the same examples every time, and are not timed: the machine may be busy."""


def attempt(call: Callable[..., Any], *args: Any) -> Any:
    """Return what the call returns, or the ProtocolError that it raises; any other exception is a failure."""
    try:
        return call(*args)
    except ProtocolError as error:
        return error


_rest = string.ascii_letters + string.digits + "._~:@-"
ids = st.builds(str.__add__, st.sampled_from(string.ascii_letters + string.digits), st.text(_rest, max_size=127))
texts = st.text(max_size=50)
integers = st.integers(0, 2**53 - 1)
channels = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=60)
offsets = st.builds("{}-{}".format, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
flags = st.booleans()

FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "reason": texts,
    "note": texts,
    "code": texts,
    "message": texts,
    "api_key": texts,
    "signature": texts,
    "state": st.sampled_from(State),
    "outcome": st.sampled_from(Outcome),
    "version": integers,
    "new_version": integers,
    "updated_at": integers,
    "resolved_at": integers,
    "received_at": integers,
    "timestamp": integers,
    "channel": channels,
    "since": offsets,
    "recovered": flags,
}


def made(cls: type[Any], **fixed: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Build ``cls`` from its fields' names; what may be None sometimes is."""
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for field in attrs.fields(cls):
        strategy = fixed.get(field.name, FIELDS.get(field.name, ids))
        if type(None) in get_args(field.type):
            strategy = st.none() | strategy
        fields[field.name] = strategy
    return st.builds(cls, **fields)


workflows = made(control.Workflow)
control_server = st.one_of(
    made(control.InitialState, workflows=st.lists(workflows, max_size=5).map(tuple)),
    made(control.StateChange),
    made(control.PolicyInvalidated),
    made(control.KeyRotated),
    made(control.ApprovalResolved),
    made(control.ResyncRequired),
    made(control.Error),
    made(control.Pong),
)
control_client = st.one_of(made(control.Subscribed), made(control.Ack), made(control.Ping))
control_input = st.one_of(
    made(control.StateChangeInput),
    made(control.PolicyInvalidatedInput),
    made(control.KeyRotatedInput),
    made(control.ApprovalResolvedInput),
)
event_server = st.one_of(
    made(events.Ping),
    made(events.Subscribed),
    made(events.Unsubscribed),
    made(events.EventError),
    made(events.ResyncRequired),
)
event_client = st.one_of(made(events.Subscribe), made(events.Unsubscribe), made(events.Pong))

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
