"""HTTP answers: what is said to a request that does not become a WebSocket."""

from collections.abc import Mapping

import attrs
import orjson

__all__ = ["Answer", "Refused", "json_answer", "refusal"]

Headers = tuple[tuple[str, str], ...]


@attrs.frozen
class Answer:
    """One HTTP answer.

    Attributes:
        status: the status code (RFC 9110 section 15).
        body: the bytes after the head; left out of an answer to HEAD.
        headers: besides those that every answer gets (Date, Content-Type, Content-Length, Connection).
        code: the `error.code` of a refusal, for the log and the counters; "" otherwise.
        close: close the connection afterwards, whatever the client would like.
        content_type: of the body.
    """

    status: int
    body: bytes
    headers: Headers = ()
    code: str = ""
    close: bool = False
    content_type: str = "application/json"


class Refused(Exception):
    """Ends the handling of a request with `answer`; raised anywhere before a 101 is sent."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.status} {answer.code}")
        self.answer = answer


def json_answer(status: int, body: Mapping[str, object], headers: Headers = ()) -> Answer:
    """Return an answer with `body` as JSON."""
    return Answer(status, orjson.dumps(body), headers)


def refusal(
    status: int,
    code: str,
    message: str,
    *,
    retry_after: float | None = None,
    headers: Headers = (),
    close: bool = False,
) -> Refused:
    """Return the exception that refuses with `{"error": {"code", "message"}}`.

    Args:
        status: 4xx or 5xx; a 401 carries the WWW-Authenticate that RFC 9110 section 15.5.2 asks for.
        code: the machine's word, snake_case.
        message: the sentence for people; never holds a credential.
        retry_after: seconds after which to try again, sent rounded up to a whole number.
        headers: further headers.
        close: close the connection afterwards.
    """
    if status == 401:
        headers = (*headers, ("WWW-Authenticate", "Bearer"))
    if retry_after is not None:
        headers = (*headers, ("Retry-After", str(max(1, -int(-retry_after // 1)))))
    body = orjson.dumps({"error": {"code": code, "message": message}})
    return Refused(Answer(status, body, headers, code, close))
