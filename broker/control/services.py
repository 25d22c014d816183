"""What every part of the control plane may use; built once, in one place."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from broker.config import Config
from broker.control.message import Signers
from broker.keys import KeyCache
from broker.observe import Counters
from broker.store.drive import Call
from broker.store.layout import Layout
from broker.wire.peer import Peer

if TYPE_CHECKING:
    from broker.control.farewells import Farewells
    from broker.control.listings import Listings
    from broker.control.member import Member
    from broker.control.presence import PresenceBoard
    from broker.control.receipts import ReceiptBook
    from broker.control.resends import Resends
    from broker.control.rooms import Rooms
    from broker.control.sending import Sending


@attrs.define(eq=False)
class ControlServices:
    """The surroundings of a control session.

    Attributes:
        config: the whole configuration; replaced on reload, so it is read where it is needed.
        layout: names in the store.
        call: the command link's `call`.
        rooms: the organizations with sessions here.
        listings: all workflows of an organization, for those who poll.
        farewells: ends sessions whose key is over.
        keys: the key cache.
        signers: who is signed for, shared by sessions.
        resends: what waits for an ack, over all sessions.
        receipts: writes who was sent what and who acknowledged it.
        presence: writes who is connected.
        sending: spreads the sending of snapshots.
        counters: what is counted.
        log: structlog.
        members: the sessions that are open here, by their connections.
        broker_id: names this broker in receipts and presence.
        clock: unix time in seconds.
    """

    config: Config
    layout: Layout
    call: Call
    rooms: "Rooms"
    listings: "Listings"
    farewells: "Farewells"
    keys: KeyCache
    signers: Signers
    resends: "Resends"
    receipts: "ReceiptBook"
    presence: "PresenceBoard"
    sending: "Sending"
    counters: Counters
    log: Any
    broker_id: str
    clock: Callable[[], float]
    members: "dict[Peer, Member]" = attrs.field(factory=dict)
