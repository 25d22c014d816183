"""What load balancers and service managers ask: is it alive, is it ready."""

import attrs

from broker.http.answer import Answer, json_answer

__all__ = ["Readiness", "live_answer", "ready_answer"]


@attrs.frozen
class Readiness:
    """Whether new clients should be sent here.

    Attributes:
        problems: why not, as short codes ("redis_down", "draining"); empty when ready.
        warnings: what does not stop it from serving but should be known.
    """

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def live_answer() -> Answer:
    """Return 200: a process that can say this is alive."""
    return json_answer(200, {"status": "live"})


def ready_answer(readiness: Readiness) -> Answer:
    """Return 200 when ready, else 503; the body names the reasons."""
    body: dict[str, object] = {"status": "not_ready" if readiness.problems else "ready"}
    if readiness.problems:
        body["problems"] = readiness.problems
    if readiness.warnings:
        body["warnings"] = readiness.warnings
    return json_answer(503 if readiness.problems else 200, body)
