"""Bearer tokens (RFC 6750 section 2.1)."""

from broker.http.answer import refusal
from broker.http.request import Request
from protocol.codes import ErrorCode

__all__ = ["bearer_token"]


def bearer_token(request: Request, what: str = "api_key", code: str = ErrorCode.API_KEY_MISSING) -> str | None:
    """Return the token of `Authorization: Bearer`, None when there is no such header.

    Args:
        request: whose headers are looked at.
        what: what the token is, for the message.
        code: of the refusal.

    Raises:
        Refused: 400 for a header that is not ASCII or comes twice with different values, 401 for another scheme.
    """
    value = request.header(b"authorization")
    if value is None:
        return None
    scheme, _, token = value.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise refusal(401, code, f"Authorization must be: Bearer <{what}>")
    return token
