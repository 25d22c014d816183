"""What travels from one process to the next arrives whole, or is known not to be."""

import hashlib
import os
import re
import socket
import typing
from collections.abc import Iterator

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.control.carried import CarriedAck, CarriedSession
from broker.daemon import parcel
from broker.store.key_record import KeyRecord, KeyStatus
from broker.store.snapshot import Position
from broker.wire import OpenConnection

RECORD = KeyRecord(
    hash="ab" * 32,
    key_id="key_1",
    organization_id="acme",
    workflow_id="wf",
    secret_key="current",
    previous_secret="previous",
    previous_until=7,
    channels=("workflow:*", "epic:?"),
    status=KeyStatus.ACTIVE,
    expires_at=2_000_000_000,
    signature="required",
)


def session(connection: OpenConnection, pending: tuple[CarriedAck, ...] = ()) -> parcel.HandedSession:
    """A session with something in every field."""
    carried = CarriedSession(
        record=RECORD,
        api_key="nr_live_x",
        secret="older than both",
        position=Position("epoch", 41, 1_700_000_000_000),
        pending=pending,
        sent=3,
        acked=2,
        last_ack=1.5,
        clock_skew=-0.25,
        wrong_signatures=1,
        silent=True,
    )
    return parcel.HandedSession(connection, carried)


def round_trip(sessions: list[parcel.HandedSession]) -> tuple[parcel.HandedSession, ...]:
    """Pack and unpack."""
    message, memory = parcel.pack(sessions)
    try:
        return tuple(map(parcel.read_session, parcel.unpack(message, memory)))
    finally:
        os.close(memory)


@given(unread=st.binary(max_size=300), begun=st.binary(max_size=300), frames=st.lists(st.binary(), max_size=4))
def test_round_trip(unread: bytes, begun: bytes, frames: list[bytes]) -> None:
    """Whatever bytes a connection has in it, and a session with pending acks, come out as they went in."""
    connection = OpenConnection("0123456789ab", "[::1]:7", 1.25, 0.5, unread, begun, tuple(frames))
    ack = CarriedAck("epoch", 41, 9, b'{"type":"state_change"}', True, 2, False)
    sessions = [session(connection, (ack, ack)), session(connection)]
    assert round_trip(sessions) == tuple(sessions)


def test_state_version() -> None:
    """Whoever changes what is handed over has to raise its version: this pins both."""
    found = hashlib.sha256("\n".join(_shape(parcel.HandedSession)).encode()).hexdigest()[:16]
    assert (parcel.STATE_VERSION, found) == (1, "98a4a85357c01d5a")


@pytest.fixture
def packed() -> Iterator[tuple[bytes, int]]:
    """A parcel of one session."""
    message, memory = parcel.pack([session(OpenConnection("0123456789ab", "unix", 1.0, 0.0))])
    yield message, memory
    os.close(memory)


@pytest.mark.parametrize(
    "message", [b"", b"hello", b"signalbox-sessions 2 1", b"signalbox-sessions 1 2", b"signalbox-sessions \xff\xff 1"]
)
def test_another_message(packed: tuple[bytes, int], message: bytes) -> None:
    """Another version, another count, or no parcel at all is refused."""
    with pytest.raises(parcel.Unreadable):
        parcel.unpack(message, packed[1])


@pytest.mark.parametrize("line", [b"", b"{}", b"[1]", b'{"connection": {}, "session": {}}', b"null", b"\xff"])
def test_damaged_state(line: bytes) -> None:
    """State that does not fit its classes is refused, never raised as anything else."""
    with pytest.raises(parcel.Unreadable):
        parcel.read_session(line)


def test_state_of_a_newer_shape() -> None:
    """A field that this version does not know is not passed over: it may mean something."""
    message, memory = parcel.pack([session(OpenConnection("0123456789ab", "unix", 1.0, 0.0))])
    [line] = parcel.unpack(message, memory)
    os.close(memory)
    with pytest.raises(parcel.Unreadable):
        parcel.read_session(line.replace(b'"silent":', b'"more":1,"silent":'))


def test_a_full_parcel() -> None:
    """As many sockets as a parcel may have pass through the channel, and are the same ones."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        theirs.setblocking(False)
        sessions = [session(OpenConnection(f"{number:012x}", "unix", 1.0, 0.0)) for number in range(parcel.MAX_SOCKETS)]
        message, memory = parcel.pack(sessions)
        parcel.send(ours, message, memory, [ours.fileno()] * len(sessions))
        os.close(memory)
        found = parcel.receive(theirs)
        assert found is not None
        text, descriptors = found
        assert [parcel.read_session(line) for line in parcel.unpack(text, descriptors[0])] == sessions
        assert {os.fstat(each).st_ino for each in descriptors[1:]} == {os.fstat(ours.fileno()).st_ino}
        assert len(descriptors) == parcel.MAX_SOCKETS + 1
        assert not any(map(os.get_inheritable, descriptors))
        for each in descriptors:
            os.close(each)
        assert parcel.receive(theirs) is None


def test_the_end_of_the_channel() -> None:
    """A channel that nobody writes to any more is empty."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.close()
    with theirs:
        assert parcel.receive(theirs) is None


def test_a_session_shows_no_secret() -> None:
    """What is carried from one process to another is in no log and no traceback of either."""
    shown = repr(CarriedSession(RECORD, "nr_live_x", "current", None, (), 0, 0, 0.0, None, 0, silent=False))
    assert RECORD.key_id in shown
    assert not any(secret in shown for secret in ("nr_live_x", "'current'", "'previous'"))


def _shape(kind: object) -> Iterator[str]:
    """The fields of a class and of the classes in them, by name and type, wherever they are written."""
    if isinstance(kind, type) and attrs.has(kind):
        hints = typing.get_type_hints(kind)
        for field in attrs.fields(kind):
            yield re.sub(r"\b[a-z_]+\.", "", f"{kind.__name__} {field.name}: {hints[field.name]}")
            yield from _shape(hints[field.name])
    for inner in typing.get_args(kind):
        yield from _shape(inner)
