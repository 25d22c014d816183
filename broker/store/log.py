"""Reading an organization's log: what was missed, what was recent, and what just came over the live channel."""

from collections.abc import Iterator

import attrs

from broker.store.layout import Layout
from broker.store.replies import blob, integer, items, maybe_text, pairs, text
from broker.store.request import Operation, command, load_script
from broker.store.snapshot import Position

READ_LOG = load_script("read_log")

REPLAYED = frozenset({"approval_resolved", "policy_invalidated", "key_rotated"})
"""Types that no snapshot holds, hence what a client that reconnects is sent again."""

_PAGE = 1000


@attrs.frozen
class LogEntry:
    """One control message as it is sent, unsigned: ``message`` is the wire JSON, ``actor`` a JSON string or null."""

    seq: int
    ms: int
    type: str
    message: bytes
    actor: bytes


@attrs.frozen
class LogRead:
    """What the log holds after a position.

    ``position`` is the log's own newest. ``gap`` says that the entries do not follow the asked position: the log was
    trimmed past it, or it is another log (another epoch, or one that lost what the position speaks of); then a fresh
    snapshot is due and ``entries`` is empty. ``lost`` is the part of that in which the store may know less than we do,
    so that it should be restored first. ``capped`` counts the entries that this log has ever lost to its size cap.
    """

    position: Position
    entries: tuple[LogEntry, ...]
    gap: bool
    lost: bool
    capped: int

    @property
    def complete(self) -> bool:
        """Whether the entries reach the log's end; otherwise read on from the last of them."""
        return not self.gap and (self.entries[-1].seq if self.entries else self.position.seq) >= self.position.seq


@attrs.frozen
class LiveMessage:
    """One message of the live channel: its place in the log, and the wire JSON, unsigned."""

    epoch: str
    seq: int
    ms: int
    message: bytes


def parse_live(payload: bytes) -> LiveMessage:
    """Take apart ``<epoch> <seq> <ms> <wire JSON>``.

    Raises ValueError for anything else.
    """
    epoch, seq, ms, message = payload.split(b" ", 3)
    return LiveMessage(epoch.decode("ascii"), int(seq), int(ms), message)


def read_log(layout: Layout, organization_id: str, after: Position, count: int = _PAGE) -> Operation[LogRead]:
    """Read at most ``count`` entries after a position, in order, and tell whether anything is missing between."""
    start = f"{after.ms}-{after.seq}" if after.seq else "-"
    reply = yield READ_LOG((layout.meta(organization_id), layout.log(organization_id)), start, count + 1)
    epoch, seq, ms, raw, rewritten, cut = items(reply)
    newest, capped = Position(maybe_text(epoch), integer(seq), integer(ms)), integer(cut)
    if after.epoch is not None and (newest.epoch != after.epoch or newest.seq < after.seq or text(rewritten) == "1"):
        return LogRead(newest, (), gap=True, lost=True, capped=capped)
    entries = tuple(entry for entry in _entries(raw) if entry.seq > after.seq)[:count]
    expected = range(after.seq + 1, after.seq + 1 + len(entries))
    behind = newest.seq > after.seq and not entries
    if behind or any(entry.seq != seq for entry, seq in zip(entries, expected, strict=True)):
        return LogRead(newest, (), gap=True, lost=False, capped=capped)
    return LogRead(newest, entries, gap=False, lost=False, capped=capped)


def read_recent(layout: Layout, organization_id: str, window: float) -> Operation[tuple[LogEntry, ...]]:
    """Read the entries of the last ``window`` seconds that no snapshot holds (`REPLAYED`), oldest first."""
    seconds = integer(items((yield command("TIME")))[0])
    start = str(max(0, int((seconds - window) * 1000)))
    found: list[LogEntry] = []
    while True:
        reply = yield command("XRANGE", layout.log(organization_id), start, "+", "COUNT", _PAGE)
        page = list(_entries(reply))
        found += [entry for entry in page if entry.type in REPLAYED]
        if len(page) < _PAGE:
            return tuple(found)
        start = f"({page[-1].ms}-{page[-1].seq}"


def _entries(reply: object) -> Iterator[LogEntry]:
    for entry in items(reply):
        entry_id, content = items(entry)
        ms, _, seq = text(entry_id).partition("-")
        by_name = {text(name): value for name, value in pairs(content)}
        yield LogEntry(int(seq), int(ms), text(by_name["type"]), blob(by_name["message"]), blob(by_name["actor"]))
