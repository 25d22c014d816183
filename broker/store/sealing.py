"""Which master key an installation's secrets are sealed with, and sealing them all."""

from typing import Final

import attrs

from broker.store.errors import SealError
from broker.store.key_record import KeyStatus
from broker.store.keys import all_hashes
from broker.store.layout import Layout
from broker.store.replies import integer, items, maybe_text
from broker.store.request import Operation, command, load_script
from broker.store.sealer import UNSEALED, Sealer, fingerprint_of

RESEAL = load_script("reseal")

_TRIES: Final = 5


@attrs.frozen
class Sealed:
    """What came of sealing: how many keys were changed, of how many; and whose secrets were dropped as unreadable."""

    changed: int
    keys: int
    dropped: tuple[str, ...]


def check_sealing(layout: Layout, sealer: Sealer) -> Operation[None]:
    """Settle the master key of an installation, or check that this is it.

    A broker that came up with another one, or with none, could verify no signature and would sign with nonsense.

    Raises SealError.
    """
    name = layout.sealing()
    settled = maybe_text((yield command("GET", name)))
    if settled is None and sealer.fingerprint:  # asked first, as in `check_schema`
        yield command("SETNX", name, sealer.fingerprint)
        settled = maybe_text((yield command("GET", name)))
    settled = settled or ""
    if settled == sealer.fingerprint:
        return
    if not sealer.fingerprint:
        raise SealError(
            f"the secrets of API keys are sealed with master key {settled}, and none is configured: "
            "set redis.master_key_file"
        )
    raise SealError(
        f"the secrets of API keys are sealed with master key {settled}, but redis.master_key_file has "
        f"{sealer.fingerprint}: bring the old one back, or re-seal with `signalbox keys seal --from OLD_FILE`"
    )


def seal_keys(layout: Layout, sealer: Sealer, previous: Sealer = UNSEALED) -> Operation[Sealed]:
    """Seal every stored secret with ``sealer``, which is the installation's from then on.

    Secrets are read plain, or sealed with ``sealer`` already (an earlier try stopped half-way), or by ``previous``. One
    that is none of these is dropped if its key was revoked.

    Raises SealError for an unreadable secret of a key that is in use; those before it are sealed, and nothing is lost.
    """
    changed = keys = 0
    dropped: list[str] = []
    for key_hash in sorted((yield from all_hashes(layout))):
        keys += 1
        for _ in range(_TRIES):
            reply = yield command("HMGET", layout.key(key_hash), "key_id", "status", "secret_key", "previous_secret")
            key_id, status, *stored = (maybe_text(item) or "" for item in items(reply))
            try:
                wanted = [_resealed(text, key_hash, sealer, previous) for text in stored]
            except SealError as error:
                if status == KeyStatus.ACTIVE:
                    raise SealError(
                        f"key {key_id}: {error}. If that master key is lost so is the secret: revoke the key, make "
                        "another, and seal again"
                    ) from None
                dropped.append(key_id)
                wanted = ["", ""]
            if wanted == stored:
                break
            if integer((yield RESEAL((layout.key(key_hash),), *stored, *wanted))):
                changed += 1
                break
    yield command("SET", layout.sealing(), sealer.fingerprint)
    return Sealed(changed, keys, tuple(dropped))


def _resealed(stored: str, owner: str, sealer: Sealer, previous: Sealer) -> str:
    if not stored or fingerprint_of(stored) == sealer.fingerprint:
        return stored
    reader = previous if fingerprint_of(stored) == previous.fingerprint else sealer
    return sealer.seal(reader.unseal(stored, owner), owner)
