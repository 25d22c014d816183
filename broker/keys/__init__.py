"""API keys as the broker sees them: a small cache over the store that hears of every change, and who is let in."""

from broker.keys.admission import Admission, Refusal, admit, judge
from broker.keys.cache import KeyCache
from broker.keys.errors import KeysUnavailable
from broker.keys.tickets import Tickets
from broker.keys.watches import Callback

__all__ = ["Admission", "Callback", "KeyCache", "KeysUnavailable", "Refusal", "Tickets", "admit", "judge"]
