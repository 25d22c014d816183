"""The body of an operator's request: a JSON object whose fields are taken one by one, none of them left over."""

import json
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

from broker.http import Refused, refusal
from protocol.codes import ErrorCode
from protocol.errors import ProtocolError
from protocol.ids import check_id

__all__ = ["Body", "bad_request", "checked_id", "parse_body"]

MAX_TEXT = 2000
"""Characters in a reason or a name."""


def bad_request(message: str, code: str = ErrorCode.BAD_REQUEST) -> Refused:
    """Return the refusal of a request that is understood but not right."""
    return refusal(400, code, message)


class Body:
    """The fields of a request that were not taken yet. Every method raises Refused with 400 for a wrong type."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def take(self, name: str) -> Any:
        """Return a field of any type, None when it is absent."""
        return self._fields.pop(name, None)

    def text(self, name: str) -> str | None:
        """Return a string."""
        value = self.take(name)
        if value is not None and not (isinstance(value, str) and len(value) <= MAX_TEXT and _is_unicode(value)):
            raise bad_request(f"{name} must be a string of at most {MAX_TEXT} characters")
        return value

    def flag(self, name: str) -> bool:
        """Return a boolean, False when it is absent."""
        value = self.take(name)
        if value not in (None, True, False) or (isinstance(value, int | Decimal) and not isinstance(value, bool)):
            raise bad_request(f"{name} must be true or false")
        return bool(value)

    def number(self, name: str, *, whole: bool = False) -> float | None:
        """Return a number that is not negative and below 2^53."""
        value = self.take(name)
        kinds = int if whole else int | Decimal
        if value is not None and (isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value < 2**53):
            raise bad_request(f"{name} must be a {'whole ' if whole else ''}number from 0 to below 2^53")
        return None if value is None else value if whole else float(value)

    def texts(self, name: str) -> Sequence[str]:
        """Return a list of strings, empty when it is absent."""
        value = self.take(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise bad_request(f"{name} must be a list of strings")
        return value

    def id(self, name: str) -> str | None:
        """Return an id."""
        value = self.take(name)
        return None if value is None else checked_id(value, name)

    def done(self) -> None:
        """Refuse what was not taken: a misspelt field must not be ignored."""
        for name in self._fields:
            raise bad_request(f"there is no field {name[:64]!r} here")


def parse_body(raw: bytes) -> Body:
    """Read a body; an empty one has no fields. Fractions keep all their digits.

    Raises:
        Refused: 400 for what is no JSON object, or has a number in it that is none for us: 1e9999999999999999999.
    """
    if not raw.strip():
        return Body({})
    try:
        fields = json.loads(raw, parse_float=Decimal, parse_constant=_no_number)
    except InvalidOperation:
        raise bad_request("a number in the body is out of range: its exponent has too many digits") from None
    except json.JSONDecodeError as error:
        raise bad_request(f"the body is not JSON: {error}", ErrorCode.INVALID_JSON) from None
    except (ValueError, RecursionError):
        raise bad_request("the body is not JSON", ErrorCode.INVALID_JSON) from None
    if not isinstance(fields, dict):
        raise bad_request("the body must be a JSON object", ErrorCode.INVALID_JSON)
    return Body(fields)


def checked_id(value: object, what: str) -> str:
    """Return an id; raises Refused with 400 for what is none."""
    try:
        return check_id(value, what)
    except ProtocolError as error:
        raise bad_request(error.message, error.code) from None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)
