"""What an answer of the log says to somebody who knows it up to entry 5."""

import pytest

from broker.store import log
from broker.store.apply import apply
from broker.store.layout import Layout
from broker.store.log import LogRead, read_log, read_recent
from broker.store.snapshot import Position
from protocol.control import PolicyInvalidatedInput
from protocol.states import State
from tests.conftest import Valkey
from tests.store.helpers import LAYOUT, ORG, change, done


def answered(epoch: bytes, seq: int, *entries: int) -> LogRead:
    """Return what is made of a log of this epoch that ends at `seq` and gives these entries."""
    operation = read_log(Layout(), "acme", Position("e1", 5, 1005))
    next(operation)
    found = [
        [b"%d-%d" % (1000 + each, each), [b"type", b"key_rotated", b"message", b"{}", b"actor", b"null"]]
        for each in entries
    ]
    with pytest.raises(StopIteration) as end:
        operation.send([epoch, b"%d" % seq, b"%d" % (1000 + seq), found, b"0", b"0"])
    read: LogRead = end.value.value
    return read


def test_what_follows() -> None:
    """The entries behind that one are what was missed."""
    read = answered(b"e1", 7, 6, 7)
    assert ([each.seq for each in read.entries], read.gap, read.complete) == ([6, 7], False, True)


@pytest.mark.parametrize(
    ("epoch", "seq", "entries"), [(b"e2", 7, (6, 7)), (b"e2", 5, ()), (b"e1", 4, ())], ids=["longer", "same", "shorter"]
)
def test_a_store_that_may_have_lost_something(epoch: bytes, seq: int, entries: tuple[int, ...]) -> None:
    """Another log has nothing to do with what is known, though its numbers follow; one that ends before has lost it."""
    read = answered(epoch, seq, *entries)
    assert (read.gap, read.lost, read.entries, read.complete) == (True, True, (), False)


@pytest.mark.parametrize("entries", [(7,), (6, 8), ()])
def test_a_log_with_something_missing(entries: tuple[int, ...]) -> None:
    """Nothing of it is taken: what was trimmed away is in a snapshot."""
    read = answered(b"e1", 8, *entries)
    assert (read.gap, read.lost, read.entries, read.complete) == (True, False, (), False)


def test_more_than_a_page_within_the_window(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that no snapshot holds is found, whatever a page ends with."""
    monkeypatch.setattr(log, "_PAGE", 2)
    for state in (State.PAUSED, State.NORMAL, State.PAUSED):
        done(valkey, apply(LAYOUT, ORG, PolicyInvalidatedInput("p", 1)))
        change(valkey, state)
    done(valkey, apply(LAYOUT, ORG, PolicyInvalidatedInput("p", 1)))
    assert [entry.seq for entry in done(valkey, read_recent(LAYOUT, ORG, 60.0))] == [1, 3, 5, 7]
