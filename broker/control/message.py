"""One message for many sessions: encoded once, signed once per secret and second, framed once."""

from protocol.frames import text_frame
from protocol.signing import SignedPayload

MEMO_BYTES = 4 << 20
"""How much signed copies of one message may take while it is being delivered."""


class Signer:
    """The identity that a client verifies messages with: its API key and one secret of it.

    Attributes:
        sessions: how many sessions use it; what is signed for several of them is kept for the next.
    """

    __slots__ = ("api_key", "secret", "sessions")

    def __init__(self, api_key: str, secret: str) -> None:
        self.api_key = api_key
        self.secret = secret
        self.sessions = 0


class Signers:
    """All signers in use, one per API key and secret."""

    def __init__(self) -> None:
        self._signers: dict[tuple[str, str], Signer] = {}

    def take(self, api_key: str, secret: str | None) -> Signer | None:
        """Return the signer for a session, None if its key has no secret; give it back with `give_back`."""
        if not secret:
            return None
        signer = self._signers.get((api_key, secret))
        if signer is None:
            signer = self._signers[api_key, secret] = Signer(api_key, secret)
        signer.sessions += 1
        return signer

    def give_back(self, signer: Signer | None) -> None:
        """End one session's use of a signer."""
        if signer is not None:
            signer.sessions -= 1
            if not signer.sessions:
                del self._signers[signer.api_key, signer.secret]

    def __len__(self) -> int:
        return len(self._signers)


class Message:
    """A message as the server decided it: `payload` is the unsigned JSON object that signatures cover."""

    __slots__ = ("_memo", "_memo_bytes", "_memo_second", "_plain", "_signed", "payload")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self._plain: bytes | None = None
        self._signed: SignedPayload | None = None
        self._memo: dict[Signer, bytes] = {}
        self._memo_second = 0
        self._memo_bytes = 0

    def frame(self, signer: Signer | None, second: int) -> bytes:
        """Return the complete frame for a session, signed as of unix time `second` if it has a signer."""
        if signer is None:
            if self._plain is None:
                self._plain = text_frame(self.payload)
            return self._plain
        if signer.sessions <= 1:
            return self._sign(signer, second)
        if second != self._memo_second:
            self.forget_frames()
            self._memo_second = second
        frame = self._memo.get(signer)
        if frame is None:
            frame = self._sign(signer, second)
            if self._memo_bytes + len(frame) <= MEMO_BYTES:
                self._memo[signer] = frame
                self._memo_bytes += len(frame)
        return frame

    def forget_frames(self) -> None:
        """Let go of the signed copies: the fan-out is over."""
        self._memo.clear()
        self._memo_bytes = 0

    def _sign(self, signer: Signer, second: int) -> bytes:
        if self._signed is None:
            self._signed = SignedPayload(self.payload)
        return text_frame(self._signed.envelope(signer.api_key, signer.secret, second))
