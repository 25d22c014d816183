"""Ids, channels, namespaces, grants and states: the small grammars."""

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.channels import Grant, check_channel, check_namespace, grant_for, namespace_of
from protocol.codes import ErrorCode
from protocol.errors import ProtocolError
from protocol.ids import check_id
from protocol.states import Outcome, State, parse_outcome, parse_state
from tests.protocol.strategies import attempt, channels, examples, ids, json_values

NAMESPACES = ("workflow", "execution", "epic")


@given(value=ids)
@examples
def test_ids_of_the_grammar_pass(value: str) -> None:
    """What the grammar makes is accepted and returned as it is."""
    assert check_id(value, "workflow_id") is value


@pytest.mark.parametrize(
    "value", ["", "-a", ".a", "a" * 129, "a b", "a/b", "a\n", "é", "a\x00", "{a}", None, 5, True, ["a"], "a\ud800", "٣"]
)
def test_other_ids_are_refused_by_name(value: object) -> None:
    """Length, first character, alphabet and type are all checked, and the error names the field."""
    with pytest.raises(ProtocolError, match="workflow_id must be") as caught:
        check_id(value, "workflow_id")
    assert caught.value.code == ErrorCode.INVALID_ID


@given(value=channels)
@examples
def test_channels_are_measured_in_bytes(value: str) -> None:
    """1 to 255 bytes of UTF-8 are a channel."""
    if len(value.encode()) <= 255:
        assert check_channel(value) is value


@pytest.mark.parametrize("value", ["", "a" * 256, "é" * 128, "a\x1f", "a\x7f", "a\x85", "\ud800", None, 5, b"a", []])
def test_other_channels_are_refused(value: object) -> None:
    """Empty, too long in bytes, control characters, no Unicode, no string."""
    with pytest.raises(ProtocolError, match="channel must") as caught:
        check_channel(value)
    assert caught.value.code == ErrorCode.INVALID_CHANNEL
    assert check_channel("é" * 127 + "a")


def test_a_namespace_ends_at_the_first_colon() -> None:
    """And a name must follow it."""
    assert namespace_of("workflow:a:b") == "workflow"
    for channel in ("workflow", "workflow:", ":a", ":", ""):
        with pytest.raises(ProtocolError):
            namespace_of(channel)


@pytest.mark.parametrize("name", ["control", "signalbox", "", "a:b", "a*", "a?", "[a", "a\n", None, 5])
def test_namespaces_that_cannot_be_configured(name: object) -> None:
    """The control plane's own, and what would reach beyond one namespace."""
    with pytest.raises(ProtocolError):
        check_namespace(name)
    assert check_namespace("workflow") == "workflow"


def test_who_may_see_what() -> None:
    """Globs say it; a workflow's key without them sees nothing; any other key sees every configured namespace."""
    assert grant_for(("workflow:a*",), None, NAMESPACES).allows("workflow:abc")
    assert not grant_for(("workflow:a*",), None, NAMESPACES).allows("workflow:bc")
    assert grant_for(("epic:1",), "wf", NAMESPACES).allows("epic:1")
    assert not grant_for((), "wf", NAMESPACES).allows("workflow:wf")
    assert grant_for((), None, NAMESPACES).allows("execution:1")
    assert not grant_for((), None, NAMESPACES).allows("control:acme")


@pytest.mark.parametrize(
    ("glob", "channel", "allowed"),
    [
        ("*", "workflow:a", True),
        ("*", "other:a", False),
        ("*", "workflow", False),
        ("*", "workflow:", False),
        ("workflow:*", "workflow:a:b:c", True),
        ("w*c", "workflow:a:b:c", True),
        ("workflow:?", "workflow:a", True),
        ("workflow:?", "workflow:ab", False),
        ("workflow:[ab]x", "workflow:bx", True),
        ("workflow:[!ab]x", "workflow:bx", False),
        ("workflow:A", "workflow:a", False),
        ("orkflow:a", "workflow:a", False),
        ("workflow:a", "workflow:a\n", False),
        ("control:*", "control:acme", False),
        ("__key*", "__keyspace@0__:x", False),
    ],
)
def test_globs(glob: str, channel: str, allowed: bool) -> None:
    """Whole name, case-sensitive, ``*`` crosses colons, and never outside the configured namespaces."""
    assert Grant((glob,), frozenset(NAMESPACES)).allows(channel) is allowed


@given(glob=st.text("workfl:*?[!ab]", max_size=20), name=st.text("workfl:ab", max_size=12))
@examples
def test_a_grant_is_its_namespaces_and_its_globs(glob: str, name: str) -> None:
    """For any glob and name the answer is what both conditions say; nothing raises."""
    channel = f"workflow:{name}"
    expected = bool(name) and fnmatch.fnmatchcase(channel, glob)
    assert Grant((glob,), frozenset(NAMESPACES)).allows(channel) is expected
    assert not Grant((glob,), frozenset()).allows(channel)


@given(value=json_values)
@examples
def test_states_and_outcomes_are_parsed_or_refused(value: object) -> None:
    """Any JSON value is a state, an outcome, or the one error."""
    for parse in (parse_state, parse_outcome):
        result = attempt(parse, value)
        assert isinstance(result, State | Outcome) or result.code == ErrorCode.INVALID_MESSAGE


def test_states_in_any_case() -> None:
    """Publishers write states as they like, and resume by name."""
    for state in State:
        assert parse_state(state) is parse_state(state.upper()) is parse_state(state.lower()) is state
    assert parse_state("Resumed") is State.NORMAL
    assert parse_outcome("Denied") is Outcome.DENIED
    with pytest.raises(ProtocolError, match="state must be Normal, Flagged"):
        parse_state("dead")
