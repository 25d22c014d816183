"""The way in for browsers: who may open an event socket.

A browser cannot read the status of a refused upgrade, so a bad token is let in and told by a close code, and only one
that tries again and again is refused.
"""

import trio

from broker.door.address import ClientAddress
from broker.door.bad_tokens import BadTokens
from broker.door.credentials import event_token
from broker.door.services import DoorServices
from broker.door.slots import Full, Slot, Slots
from broker.http.answer import refusal
from broker.http.request import Request
from broker.keys.admission import judge
from broker.keys.errors import KeysUnavailable
from broker.store.key_record import KeyRecord
from protocol.codes import ErrorCode

__all__ = ["BAD_TOKEN", "admit_event"]

BAD_TOKEN = "Invalid or missing token"  # noqa: S105  the reason of the close, which clients show


async def admit_event(
    request: Request, address: ClientAddress, services: DoorServices, slots: Slots, bad_tokens: BadTokens
) -> tuple[KeyRecord, Slot] | None:
    """Decide about an event upgrade; None means: open it, and close it at once with 1008 `BAD_TOKEN`.

    Raises:
        Refused: 401 for the fourth bad attempt within a minute; 429 or 503 when a limit is reached or the store
            is away.
    """
    token = event_token(request)
    try:
        record = None if token is None else await services.keys.lookup(token)
    except KeysUnavailable:
        raise refusal(503, ErrorCode.UNAVAILABLE, "the key store does not answer; try again", retry_after=2) from None
    verdict = judge(record, services.clock())
    if record is None or verdict is not None:
        if bad_tokens.admit(token, address.host, trio.current_time()):
            return None
        raise refusal(401, verdict.code if verdict else ErrorCode.API_KEY_UNKNOWN, BAD_TOKEN, retry_after=60)
    try:
        return record, slots.take(record.key_id)
    except Full as full:
        raise full.refused() from None
