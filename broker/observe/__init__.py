"""What the broker says about itself: structured logs that never hold a secret, and counters."""

from broker.observe.counters import Counters
from broker.observe.log import configure, get_logger, set_level
from broker.observe.readiness import Readiness
from broker.observe.redact import redact_text
from broker.observe.repeated import Repeated

__all__ = ["Counters", "Readiness", "Repeated", "configure", "get_logger", "redact_text", "set_level"]
