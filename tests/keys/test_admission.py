import attrs
import pytest

from broker.keys import Admission, Refusal, admit, judge
from broker.store.key_record import KeyRecord, KeyStatus
from protocol.signing import EMPTY_BODY_HASH, signature

NOW = 1_700_000_000.0
API_KEY = "nr_live_x"
RECORD = KeyRecord(
    hash="h",
    key_id="k",
    organization_id="acme",
    secret_key="current",
    previous_secret="previous",
    previous_until=int(NOW) + 60,
    expires_at=int(NOW) + 3600,
)


def decide(
    record: KeyRecord | None = RECORD,
    secret: str | None = None,
    *,
    now: float = NOW,
    age: int = 0,
    required: bool = False,
) -> Admission | Refusal:
    """Decide about an upgrade, signed `age` seconds ago if a secret is given."""
    at = int(now) - age
    made = None if secret is None else signature(secret, at, API_KEY, EMPTY_BODY_HASH)
    return admit(
        record,
        api_key=API_KEY,
        now=now,
        signature=made,
        timestamp=None if made is None else str(at),
        max_age=300,
        required=required,
    )


def test_judged_by_the_key_alone() -> None:
    """Unknown, revoked and expired keys are told apart; expiry counts to the second."""
    revoked = KeyRecord(hash="h", key_id="k", organization_id="acme", status=KeyStatus.REVOKED)
    found = [judge(None, NOW), judge(revoked, NOW), judge(RECORD, NOW + 3600), judge(RECORD, NOW + 3599)]
    assert [each and each.code for each in found] == ["api_key_unknown", "api_key_revoked", "api_key_expired", None]


@pytest.mark.parametrize(("secret", "previous"), [("current", False), ("previous", True)])
def test_signatures_of_both_secrets(secret: str, previous: bool) -> None:
    """Inside the overlap both secrets verify, and the admission says which one it was."""
    admission = decide(secret=secret)
    assert isinstance(admission, Admission)
    assert (admission.secret, admission.signed_with_previous) == (secret, previous)


@pytest.mark.parametrize(
    ("secret", "age", "now", "code"),
    [
        ("wrong", 0, NOW, "signature_wrong"),
        ("current", 301, NOW, "signature_stale"),
        ("previous", 0, NOW + 60, "signature_wrong"),
    ],
)
def test_a_signature_that_is_there_is_checked(secret: str, age: int, now: float, code: str) -> None:
    """Wrong and stale signatures are refused even where none is needed, and the old secret ends with the overlap."""
    refused = decide(secret=secret, age=age, now=now)
    assert isinstance(refused, Refusal)
    assert (refused.status, refused.code) == (401, code)


def test_a_signature_that_must_be_there() -> None:
    """Where a signature is required, who brings none is refused, whatever rule the key has for its handshakes."""
    refused = decide(required=True)
    assert isinstance(refused, Refusal)
    assert (refused.status, refused.code) == (401, "signature_missing")
    assert isinstance(decide(secret="current", required=True), Admission)
    assert isinstance(decide(attrs.evolve(RECORD, signature="required")), Admission)
