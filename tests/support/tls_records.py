"""TLS 1.3 records made by hand, for what no TLS library offers to send (RFC 8446)."""

import hmac
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["ClientRecords"]

_HANDSHAKE, _DATA = 22, 23
_KEY_UPDATE = 24


class ClientRecords:
    """Records of a client behind its handshake; its TLS object must not write any more.

    Args:
        key_log: the file that the client's context wrote its secrets to (`SSLContext.keylog_filename`); the last
            connection counts, and must use TLS_AES_256_GCM_SHA384.
    """

    def __init__(self, key_log: Path) -> None:
        lines = [line.split() for line in key_log.read_text().splitlines()]
        self._secret = [bytes.fromhex(words[2]) for words in lines if words[0] == "CLIENT_TRAFFIC_SECRET_0"][-1]
        self._number = 0

    def data(self, content: bytes, padding: int = 0) -> bytes:
        """Return a record of application data with so many zeros behind it (section 5.4)."""
        return self._record(content + bytes((_DATA,)) + bytes(padding))

    def key_update(self, is_requested: bool) -> bytes:
        """Return a record that says that the next has another key, and may ask the peer for the same (4.6.3)."""
        made = self._record(bytes((_KEY_UPDATE, 0, 0, 1, is_requested, _HANDSHAKE)))
        self._secret = self._expand("traffic upd", 48)
        self._number = 0
        return made

    def _record(self, inner: bytes) -> bytes:
        head = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2)
        nonce = int.from_bytes(self._expand("iv", 12)) ^ self._number
        self._number += 1
        return head + AESGCM(self._expand("key", 32)).encrypt(nonce.to_bytes(12), inner, head)

    def _expand(self, label: str, size: int) -> bytes:
        """Derive up to 48 bytes from the secret: HKDF-Expand-Label without a context (section 7.1)."""
        name = b"tls13 " + label.encode()
        info = size.to_bytes(2) + bytes((len(name),)) + name + b"\0"
        return hmac.digest(self._secret, info + b"\x01", "sha384")[:size]
