"""The master key, which seals the secrets of API keys with AES-256-GCM (NIST SP 800-38D)."""

import base64
import binascii
import hashlib
import secrets
from pathlib import Path
from typing import Any, Final

from broker.store.errors import SealError
from broker.store.sealer import PREFIX, UNSEALED, Sealer, fingerprint_of, is_sealed

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
"""Random for each secret: of 2^32 secrets under one key two would share one with a chance of 2^-33."""

EXTRA: Final = "signalbox-broker[sealing]"


class MasterKey:
    """Seals and unseals with one key of 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._cipher = _cipher(key)
        self.fingerprint = hashlib.sha256(b"signalbox master key\0" + key).hexdigest()[:16]

    def seal(self, secret: str, owner: str) -> str:
        """``sealed:<fingerprint>:<base64 of nonce, ciphertext and tag>``."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed: bytes = nonce + self._cipher.encrypt(nonce, secret.encode(), owner.encode())
        return f"{PREFIX}{self.fingerprint}:{base64.urlsafe_b64encode(sealed).decode()}"

    def unseal(self, stored: str, owner: str) -> str:
        """The secret; one from before there was a master key is returned as it is.

        Raises SealError.
        """
        if not is_sealed(stored):
            return stored
        if fingerprint_of(stored) != self.fingerprint:
            raise SealError(
                f"a secret is sealed with master key {fingerprint_of(stored)}, but redis.master_key_file has "
                f"{self.fingerprint}: bring the old one back, or re-seal with `signalbox keys seal --from OLD_FILE`"
            )
        try:
            sealed = base64.urlsafe_b64decode(stored.rpartition(":")[2])
            secret: bytes = self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], owner.encode())
        except (binascii.Error, ValueError, _invalid_tag()):
            raise SealError("a sealed secret was altered, or moved from one API key to another") from None
        return secret.decode()


def open_sealer(path: Path | None, named_by: str = "redis.master_key_file") -> Sealer:
    """Return the sealer for the master key in a file, which has 64 hex digits; None seals nothing.

    ``named_by`` is the setting or option that names the file, as complaints about it say.

    Raises SealError for a file that cannot be read or has something else, and where the cipher is not installed.
    """
    if path is None:
        return UNSEALED
    try:
        text = path.read_text(encoding="ascii").strip()
    except UnicodeDecodeError:
        text = ""
    except OSError as error:
        raise SealError(f"{named_by} {path} cannot be read: {error.strerror or error}") from None
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise SealError(f"{named_by} {path} must hold 64 hex digits, as `openssl rand -hex 32` makes them")
    return MasterKey(key)


def _cipher(key: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise SealError(f"redis.master_key_file needs a cipher that is not installed: pip install '{EXTRA}'") from None
    return AESGCM(key)


def _invalid_tag() -> type[Exception]:
    from cryptography.exceptions import InvalidTag

    return InvalidTag
