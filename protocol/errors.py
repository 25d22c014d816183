"""The one exception that remote input can cause."""

from protocol.codes import ErrorCode


class ProtocolError(Exception):
    """A peer, a publisher or a user gave something that the protocol does not allow.

    ``code`` is an :class:`~protocol.codes.ErrorCode` value and ``message`` a sentence that names the offending field;
    both may be shown to the peer, so neither ever holds a secret. ``channel`` is the channel that the offending
    message was about, if it could be told.
    """

    def __init__(self, code: str, message: str, channel: str | None = None) -> None:
        super().__init__(code, message, channel)
        self.code: str = str(code)
        self.message = message
        self.channel = channel

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def invalid(message: str, channel: str | None = None) -> ProtocolError:
    """The most common error: a message, or a field of it, that is not as it must be."""
    return ProtocolError(ErrorCode.INVALID_MESSAGE, message, channel)
