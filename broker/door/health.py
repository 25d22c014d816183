"""What load balancers and service managers ask: is it alive, is it ready."""

from broker.http.answer import Answer, json_answer
from broker.observe import Readiness

__all__ = ["Readiness", "live_answer", "ready_answer"]


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
