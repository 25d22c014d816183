"""Opening WebSockets: the upgrade is checked, the client admitted, the session run (RFC 6455 section 4.2)."""

from collections.abc import Awaitable, Callable

import attrs

from broker.door.address import ClientAddress
from broker.door.arrival import Arrival
from broker.door.control_door import admit_control
from broker.door.credentials import selected_subprotocol
from broker.door.event_door import BAD_TOKEN, admit_event
from broker.door.hosted import hosted_peer
from broker.door.routes import UPGRADE, Match, Target
from broker.door.services import DoorServices
from broker.door.slots import Slot
from broker.door.state import DoorState, Kind
from broker.http.answer import refusal
from broker.http.request import Request
from broker.wire.peer import Peer
from broker.wire.plain import PlainWire
from protocol.codes import CloseCode, ErrorCode
from protocol.deflate import Deflate, agree_on
from protocol.errors import ProtocolError
from protocol.upgrade import Upgrade, check_upgrade, switching_protocols

VERSION = (("Sec-WebSocket-Version", "13"),)

__all__ = ["Admitted", "TurnedAway", "admit_socket", "agreed_compression", "checked_upgrade", "serve_socket"]


@attrs.frozen
class Admitted:
    """A client that may have its WebSocket.

    Attributes:
        answer: the 101 to send.
        kind: of its session.
        slot: its place, to be given back.
        session: serves the peer until it is over.
        deflate: what the answer agrees on about compression.
    """

    answer: bytes
    kind: Kind
    slot: Slot
    session: Callable[[Peer], Awaitable[None]]
    deflate: Deflate | None = None


@attrs.frozen
class TurnedAway:
    """A client whose WebSocket is opened only to tell it, by a close code, why it is closed."""

    answer: bytes
    code: CloseCode
    reason: str


async def admit_socket(
    request: Request, match: Match, address: ClientAddress, state: DoorState
) -> Admitted | TurnedAway:
    """Decide about a request for a WebSocket.

    Raises:
        Refused: it is to be answered instead.
    """
    upgrade = checked_upgrade(request)
    subprotocol = selected_subprotocol(upgrade.subprotocols)
    answer = switching_protocols(upgrade.key, subprotocol)
    services = state.services
    if match.target is Target.CONTROL_SOCKET:
        org_id = match.names["org_id"]
        api_key, admission, slot = await admit_control(request, org_id, address, state)
        return Admitted(
            answer,
            Kind.CONTROL,
            slot,
            lambda peer: services.control_session(peer, admission.record, api_key, org_id, admission.secret),
        )
    if state.is_crowded or not state.entries.pass_at_once():
        await state.entries.take_turn()
    admitted = await admit_event(request, upgrade.subprotocols, address, state)
    if admitted is None:
        return TurnedAway(answer, CloseCode.POLICY, BAD_TOKEN)
    key, slot = admitted
    deflate = agreed_compression(upgrade, services)
    if deflate is not None:
        answer = switching_protocols(upgrade.key, subprotocol, deflate.answer)
    return Admitted(answer, Kind.EVENTS, slot, lambda peer: services.event_session(peer, key), deflate)


def serve_socket(
    admitted: Admitted | TurnedAway, wire: PlainWire, address: ClientAddress, arrival: Arrival, state: DoorState
) -> Awaitable[None]:
    """Send the 101 and serve the socket until it is over and closed; to be awaited at once.

    Frames that came in one segment with the request, and were given back to the wire, are the first to be read.

    Raises:
        WireBroken: the client went before the socket was open.
    """
    if isinstance(admitted, TurnedAway):
        return _turn_away(admitted, wire, address, state)
    return _serve_admitted(admitted, wire, address, arrival, state)


async def _turn_away(away: TurnedAway, wire: PlainWire, address: ClientAddress, state: DoorState) -> None:
    """Open a socket to say by its close why there is none."""
    async with hosted_peer(wire, away.answer, Kind.EVENTS, state, remote=address.text, session=False) as peer:
        peer.close_soon(away.code, away.reason)


async def _serve_admitted(
    admitted: Admitted, wire: PlainWire, address: ClientAddress, arrival: Arrival, state: DoorState
) -> None:
    """Open the socket, serve it, close it, give its place back, and count how it ended."""
    kind = admitted.kind
    with admitted.slot:
        deflate = admitted.deflate
        async with hosted_peer(wire, admitted.answer, kind, state, remote=address.text, deflate=deflate) as peer:
            arrival.leave()
            if kind in state.sent_away:
                peer.close_soon(CloseCode.RESTARTING, "restarting")
            else:
                await admitted.session(peer)


def agreed_compression(upgrade: Upgrade, services: DoorServices) -> Deflate | None:
    """Return what to agree on with a client of the event socket; None is no compression."""
    return agree_on(upgrade.extensions) if services.config.events.compression else None


def checked_upgrade(request: Request) -> Upgrade:
    """Return what a request for a WebSocket asks for.

    Raises:
        Refused: 400 for a faulty upgrade, 426 for none or one of another version.
    """
    if request.has_body:
        raise refusal(400, ErrorCode.BAD_UPGRADE, "an upgrade has no body", close=True)
    try:
        return check_upgrade(request.method, request.headers)
    except ProtocolError as error:
        if error.code == ErrorCode.UPGRADE_REQUIRED:
            raise refusal(426, error.code, error.message, headers=UPGRADE) from None
        if request.header(b"sec-websocket-version") != "13":
            raise refusal(426, error.code, error.message, headers=VERSION, close=True) from None
        raise refusal(400, error.code, error.message, close=True) from None
