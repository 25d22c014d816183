import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.control import message as module
from broker.control.message import Message, Signers
from broker.control.snapshot import MAX_SENT_BYTES, entry, pack
from protocol.control import Workflow
from protocol.frames import text_frame
from protocol.signing import verify_envelope
from protocol.states import State

PAYLOAD = b'{"type":"resync_required","reason":"x"}'


def test_signed_once_for_all_who_share_a_secret() -> None:
    """Sessions with one secret get the very same bytes within a second, and fresh ones in the next."""
    signers = Signers()
    signer = signers.take("nr_live_a", "s")
    assert signers.take("nr_live_a", "s") is signer
    message = Message(PAYLOAD)
    first = message.frame(signer, 100)
    assert message.frame(signer, 100) is first
    second = message.frame(signer, 101)
    for frame, at in ((first, 100), (second, 101)):
        text = frame[frame.index(b"{") :]
        assert verify_envelope(text, "s", api_key="nr_live_a", now=at, max_age=0) == PAYLOAD
    assert message.frame(None, 100) is message.frame(None, 101) == text_frame(PAYLOAD)
    signers.give_back(signer)
    signers.give_back(signer)
    assert len(signers) == 0
    assert signers.take("nr_live_a", None) is None


REASONS = st.none() | st.text(max_size=4096)


@given(st.lists(REASONS, max_size=60), st.integers(1, 60))
def test_snapshots_fit_when_signed(reasons: list[str | None], repeat: int) -> None:
    """Every part stays within its bound as sent, and together they are the whole snapshot in order."""
    reasons = reasons * repeat
    workflows = [Workflow(f"wf-{i}", State.KILLED, i, reason, 1) for i, reason in enumerate(reasons)]
    signer = Signers().take("nr_live_" + "x" * 43, "0" * 64)
    parts = pack("acme", map(entry, workflows))
    merged = []
    for part in parts:
        assert len(part.frame(signer, 1_700_000_000)) <= MAX_SENT_BYTES
        merged += json.loads(part.payload)["workflows"]
    assert [each["workflow_id"] for each in merged] == [each.workflow_id for each in workflows]
    assert [each["reason"] for each in merged] == reasons
    assert len(parts) == 1 or all(json.loads(part.payload)["workflows"] for part in parts)


def test_signed_copies_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a message that goes to very many secrets only so much is kept signed; the rest is signed each time."""
    signers = Signers()
    first, second, *_ = [signers.take("nr_live_a", secret) for secret in ("s", "t", "s", "t")]
    message = Message(PAYLOAD)
    monkeypatch.setattr(module, "MEMO_BYTES", len(message.frame(first, 1)))
    message.forget_frames()
    assert message.frame(first, 1) is message.frame(first, 1)
    again = message.frame(second, 1)
    assert message.frame(second, 1) == again
    assert message.frame(second, 1) is not again
