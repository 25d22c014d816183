"""Error and close codes."""

import pickle
import re
from pathlib import Path

from protocol.codes import CLOSINGS, CloseCode, ErrorCode
from protocol.errors import ProtocolError


def test_every_close_code_says_what_to_do() -> None:
    """The table has each code, and only what asks for another client or key says: do not reconnect."""
    assert set(CLOSINGS) == set(CloseCode)
    final = {code for code, closing in CLOSINGS.items() if not closing.reconnect}
    assert final == {
        CloseCode.NORMAL,
        CloseCode.PROTOCOL_ERROR,
        CloseCode.INVALID_DATA,
        CloseCode.POLICY,
        CloseCode.TOO_BIG,
        CloseCode.BAD_MESSAGES,
        CloseCode.KEY_REVOKED,
    }


def test_error_codes_are_snake_case() -> None:
    """Clients match on them: no spaces, no capitals, no two alike."""
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in ErrorCode)
    assert len(set(ErrorCode)) == len(ErrorCode.__members__)


def test_every_error_code_is_in_use() -> None:
    """A code that nothing answers with would be a promise of the manual that nobody keeps."""
    root = Path(__file__).parents[2]
    sources = "".join(path.read_text() for part in ("broker", "protocol") for path in (root / part).rglob("*.py"))
    used = set(re.findall(r"ErrorCode\.([A-Z_]+)", sources))
    assert set(ErrorCode.__members__) - used == set()


def test_the_error_shows_code_and_message_and_travels() -> None:
    """Its text serves a log line; it survives pickling, as exceptions between processes must."""
    error = ProtocolError(ErrorCode.TOO_BIG, "a message must be at most 5 bytes", "workflow:a")
    assert str(error) == "too_big: a message must be at most 5 bytes"
    again = pickle.loads(pickle.dumps(error))
    assert (again.code, again.message, again.channel) == (error.code, error.message, error.channel)
