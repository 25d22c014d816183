"""Bearer tokens (RFC 6750 section 2.1)."""

from broker.http.request import Request

__all__ = ["bearer_token"]


def bearer_token(request: Request) -> str | None:
    """Return the token of `Authorization: Bearer`, None when there is none.

    Another scheme is no credential of ours: a proxy may have put it there, or a browser that remembers a password.

    Raises:
        Refused: 400 for a header that is not ASCII or comes twice with different values.
    """
    scheme, _, token = (request.header(b"authorization") or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None
