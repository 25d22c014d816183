"""Secrets at rest: sealed with a master key, of use to nobody without it, and never turned into nonsense."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.store.drive import run_sync
from broker.store.errors import SealError
from broker.store.keys import NewKey, add_key, find_key, list_keys, revoke_key, rotate_key
from broker.store.layout import Layout
from broker.store.master_key import MasterKey, open_sealer
from broker.store.request import Operation, ScriptCall
from broker.store.sealer import BLINDFOLD, UNSEALED, Sealer, is_sealed
from broker.store.sealing import Sealed, check_sealing, seal_keys
from tests.conftest import Valkey

LAYOUT = Layout()
ONE, OTHER = MasterKey(b"1" * 32), MasterKey(b"2" * 32)


@given(st.text(alphabet="0123456789abcdef", min_size=64, max_size=64), st.text(max_size=64))
def test_what_is_sealed_comes_back(secret: str, owner: str) -> None:
    """Sealing is undone by the same master key for the same owner, and never gives the same text twice."""
    sealed = ONE.seal(secret, owner)
    assert ONE.unseal(sealed, owner) == secret
    assert secret not in sealed
    assert sealed != ONE.seal(secret, owner)


@given(st.integers(0, 200), st.integers(1, 255))
def test_one_altered_character_is_noticed(at: int, by: int) -> None:
    """Whatever is changed in a sealed secret, it is refused and never unsealed to something else."""
    sealed = ONE.seal("ab" * 32, "owner")
    at %= len(sealed)
    altered = sealed[:at] + chr((ord(sealed[at]) + by) % 256) + sealed[at + 1 :]
    try:
        assert ONE.unseal(altered, "owner") in ("ab" * 32, altered)  # base64 has spare bits; a plain text stays one
    except SealError:
        return
    assert altered[:7] != "sealed:" or altered[:-5] == sealed[:-5]


def test_a_secret_is_sealed_for_its_key_alone() -> None:
    """A sealed secret that is moved to another key, which somebody with write access could do, is refused."""
    with pytest.raises(SealError, match="altered, or moved"):
        ONE.unseal(ONE.seal("ab" * 32, "alice"), "bob")


def test_another_master_key_or_none_is_told() -> None:
    """With another master key, or without one, a sealed secret is an error that says which one it was."""
    sealed = ONE.seal("ab" * 32, "owner")
    with pytest.raises(SealError, match=f"sealed with master key {ONE.fingerprint}, but .* has {OTHER.fingerprint}"):
        OTHER.unseal(sealed, "owner")
    with pytest.raises(SealError, match=r"none is configured: set redis\.master_key_file"):
        UNSEALED.unseal(sealed, "owner")


def test_the_master_key_file(tmp_path: Path) -> None:
    """The file holds 64 hex digits; anything else, and no file, is refused with what it should be."""
    path = tmp_path / "master"
    path.write_text("31" * 32 + "\n")
    assert open_sealer(path).fingerprint == ONE.fingerprint
    assert open_sealer(None) is UNSEALED
    for wrong in ("", "31" * 31, "31" * 33, "zz" * 32, "schlüssel"):
        path.write_text(wrong)
        with pytest.raises(SealError, match="64 hex digits"):
            open_sealer(path)
    with pytest.raises(SealError, match="cannot be read"):
        open_sealer(tmp_path / "none")


def test_without_the_cipher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the optional package is not installed, it is named."""
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    path = tmp_path / "master"
    path.write_text("31" * 32)
    with pytest.raises(SealError, match=r"pip install 'signalbox-broker\[sealing\]'"):
        open_sealer(path)


def add(valkey: Valkey, sealer: Sealer = UNSEALED) -> NewKey:
    """Make a key."""
    return run_sync(valkey.client, add_key(LAYOUT, "acme", sealer=sealer))


def stored(valkey: Valkey, made: NewKey) -> tuple[str, str]:
    """The secrets of a key as they stand in Redis."""
    found = valkey.client.hmget(LAYOUT.key(made.record.hash), "secret_key", "previous_secret")
    current, previous = (value.decode() if isinstance(value, bytes) else "" for value in found)
    return current, previous


def test_keys_with_a_master_key(valkey: Valkey) -> None:
    """Keys are made, read, rotated and revoked alike with sealed secrets, and no secret stands in Redis."""
    made = add(valkey, ONE)
    rotated = run_sync(valkey.client, rotate_key(LAYOUT, made.record.key_id, sealer=ONE))
    assert rotated.previous_secret == made.record.secret_key
    assert all(map(is_sealed, stored(valkey, made)))
    assert run_sync(valkey.client, find_key(LAYOUT, made.record.key_id, ONE)) == rotated
    with pytest.raises(SealError):
        run_sync(valkey.client, find_key(LAYOUT, made.record.key_id))


def test_revoking_needs_no_master_key(valkey: Valkey) -> None:
    """Who has lost the master key can still list keys and revoke them."""
    made = add(valkey, ONE)
    (listed,) = run_sync(valkey.client, list_keys(LAYOUT, "acme", BLINDFOLD))
    assert (listed.key_id, listed.secret_key) == (made.record.key_id, "")
    run_sync(valkey.client, revoke_key(LAYOUT, made.record.key_id, sealer=BLINDFOLD))
    with pytest.raises(SealError):
        run_sync(valkey.client, rotate_key(LAYOUT, made.record.key_id, sealer=BLINDFOLD))
    assert is_sealed(stored(valkey, made)[0])


def test_the_installation_remembers_its_master_key(valkey: Valkey) -> None:
    """Once a master key was used, a start with another one or with none is refused, even without any key to try."""
    run_sync(valkey.client, check_sealing(LAYOUT, UNSEALED))
    run_sync(valkey.client, check_sealing(LAYOUT, ONE))
    run_sync(valkey.client, check_sealing(LAYOUT, ONE))
    with pytest.raises(SealError, match="signalbox keys seal --from OLD_FILE"):
        run_sync(valkey.client, check_sealing(LAYOUT, OTHER))
    with pytest.raises(SealError, match="none is configured"):
        run_sync(valkey.client, check_sealing(LAYOUT, UNSEALED))


def test_sealing_what_was_plain_and_changing_the_master_key(valkey: Valkey) -> None:
    """Plain secrets are sealed, sealed ones re-sealed with another master key; doing it again changes nothing."""
    plain, sealed = add(valkey), add(valkey, ONE)
    run_sync(valkey.client, rotate_key(LAYOUT, plain.record.key_id))
    before = run_sync(valkey.client, find_key(LAYOUT, plain.record.key_id))
    assert run_sync(valkey.client, seal_keys(LAYOUT, ONE)).changed == 1
    assert all(map(is_sealed, stored(valkey, plain)))
    assert run_sync(valkey.client, find_key(LAYOUT, plain.record.key_id, ONE)) == before
    assert run_sync(valkey.client, seal_keys(LAYOUT, OTHER, ONE)).changed == 2
    assert run_sync(valkey.client, seal_keys(LAYOUT, OTHER, ONE)).changed == 0
    assert run_sync(valkey.client, find_key(LAYOUT, sealed.record.key_id, OTHER)) == sealed.record
    run_sync(valkey.client, check_sealing(LAYOUT, OTHER))


def test_a_lost_master_key(valkey: Valkey) -> None:
    """A secret that nobody can read stops the sealing, by the key's name, until that key is revoked; then it goes."""
    lost = add(valkey, ONE)
    with pytest.raises(SealError, match=f"key {lost.record.key_id}: .* revoke the key"):
        run_sync(valkey.client, seal_keys(LAYOUT, OTHER))
    run_sync(valkey.client, revoke_key(LAYOUT, lost.record.key_id, sealer=BLINDFOLD))
    assert run_sync(valkey.client, seal_keys(LAYOUT, OTHER)).dropped == (lost.record.key_id,)
    assert stored(valkey, lost) == ("", "")
    run_sync(valkey.client, check_sealing(LAYOUT, OTHER))


def with_a_rotation(operation: Operation[Sealed], rotate: Callable[[], object]) -> Operation[Sealed]:
    """Do the operation, with `rotate` just before its first script."""
    request, rotated = next(operation), False
    while True:
        if isinstance(request, ScriptCall) and not rotated:
            rotate()
            rotated = True
        try:
            request = operation.send((yield request))
        except StopIteration as end:
            sealed: Sealed = end.value
            return sealed


def test_a_rotation_in_the_middle_is_not_undone(valkey: Valkey) -> None:
    """A key that is rotated between the reading and the writing of its secrets keeps its new secret, sealed."""
    made = add(valkey)
    rotated = []

    def rotate() -> None:
        rotated.append(run_sync(valkey.client, rotate_key(LAYOUT, made.record.key_id)))

    assert run_sync(valkey.client, with_a_rotation(seal_keys(LAYOUT, ONE), rotate)).changed == 1
    assert rotated == [run_sync(valkey.client, find_key(LAYOUT, made.record.key_id, ONE))]
    assert all(map(is_sealed, stored(valkey, made)))
