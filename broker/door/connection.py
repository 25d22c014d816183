"""One accepted connection, from its first byte to its end: TLS, requests and answers, and perhaps a WebSocket."""

import socket

import trio

from broker.door.address import ClientAddress
from broker.door.arrival import Arrival, LineFull
from broker.door.echo import admit_echo, is_echo
from broker.door.proxy_header import BadProxyHeader, read_proxy_header
from broker.door.respond import respond
from broker.door.routes import find_route
from broker.door.sockets import Admitted, TurnedAway, admit_socket, serve_socket
from broker.door.state import DoorState
from broker.http.answer import Answer, Refused
from broker.http.conversation import ConnectionOver, Conversation
from broker.http.request import Request
from broker.wire.plain import PlainWire, WireBroken, describe_address
from broker.wire.tls import TlsWire

__all__ = ["serve_connection"]


async def serve_connection(raw: socket.socket, address: object, arrival: Arrival, state: DoorState) -> None:
    """Serve one connection until it is over; nothing that it does or meets gets any further than this.

    Args:
        raw: accepted; closed at the end.
        address: where it is from, as accept(2) tells it.
        arrival: its way through the gate, left when it becomes a session or ends.
        state: what the connections share.
    """
    wire: PlainWire | None = None
    try:
        wire = PlainWire(raw, describe_address(address))
        peer = await _located(wire, arrival, state)
        deadline = trio.current_time() + state.bounds.handshake_timeout
        wire = await _secured(wire, state, deadline)
        admitted = await _converse(wire, peer, arrival, state, deadline)
        if admitted is not None:
            upgrade, client = admitted
            await serve_socket(upgrade, wire, client, arrival, state)
    except Exception as error:
        if not _went_away(error):
            state.services.counters.crashed += 1
            state.services.log.exception("a connection ended with an error of ours", remote=wire and wire.remote)
    finally:
        arrival.leave()
        if wire is not None:
            wire.close()
        raw.close()


async def _located(wire: PlainWire, arrival: Arrival, state: DoorState) -> ClientAddress:
    """Return where a connection is from, once it is its address's turn."""
    seconds = state.bounds.handshake_timeout
    if state.proxies.announces(wire.remote):
        try:
            with trio.fail_after(seconds):
                wire.remote = await read_proxy_header(wire) or wire.remote
        except (BadProxyHeader, trio.TooSlowError) as error:
            state.services.counters.refused["proxy_header"] += 1
            state.say.warning("proxy", "a trusted proxy sends no PROXY header", remote=wire.remote, why=str(error))
            raise ConnectionOver("no PROXY header") from None
    address = state.proxies.peer(wire.remote)
    try:
        await arrival.line_up(address.counted, seconds)
    except LineFull:
        state.services.counters.refused["too_many_handshakes"] += 1
        state.say.warning("line", "too many connections of one address are in their handshake", address=address.host)
        raise ConnectionOver("too many handshakes") from None
    return address


async def _secured(wire: PlainWire, state: DoorState, deadline: float) -> PlainWire:
    """Return the wire to speak on: TLS when a certificate is set."""
    if state.tls is None:
        return wire
    secured = TlsWire(wire, state.tls)
    try:
        with trio.move_on_at(deadline):
            await secured.handshake(state.handshakes)
            return secured
    except WireBroken as error:
        state.services.counters.refused["tls"] += 1
        state.say.info("tls", "TLS handshake failed", remote=wire.remote, error=str(error))
        raise
    raise ConnectionOver("no TLS handshake in time")


async def _converse(
    wire: PlainWire, peer: ClientAddress, arrival: Arrival, state: DoorState, deadline: float
) -> tuple[Admitted | TurnedAway, ClientAddress] | None:
    """Answer requests until the connection ends, or until one is to become a WebSocket: then how, and whose it is.

    What HTTP needed is given back to memory here, before a session of hours begins.
    """
    conversation = Conversation(wire, state.bounds, state.requests.pass_in_turn)
    state.conversations.add(conversation)
    address = peer
    try:
        while True:
            counted = False
            try:
                request = await conversation.next_request(deadline)
                address = _client_of(request, peer, state)
                if not request.is_upgrade:
                    counted = True
                    await _keep_pace(address, state)
                outcome = await _outcome(request, address, conversation, state)
                if not isinstance(outcome, Answer):
                    conversation.hand_over()
                    return outcome, address
                answer = outcome
            except Refused as refused:
                answer = refused.answer
                state.services.counters.refused[answer.code] += 1
                state.services.log.debug("request refused", status=answer.status, code=answer.code, remote=address.text)
                if not counted:
                    await _keep_pace(address, state)
            if not await conversation.answer(answer, keep=state.keeps_alive and not arrival.is_crowded):
                break
    finally:
        state.conversations.discard(conversation)
    await conversation.linger()
    return None


def _client_of(request: Request, peer: ClientAddress, state: DoorState) -> ClientAddress:
    """Return whose request it is, and say if it names a client that nobody trusted vouches for."""
    if state.proxies.disbelieves(peer, request):
        event = "X-Forwarded-For is ignored: server.trusted_proxies has no such peer"
        state.say.info("forwarded", event, remote=peer.text)
    return state.proxies.client(peer, request)


async def _outcome(
    request: Request, address: ClientAddress, conversation: Conversation, state: DoorState
) -> Answer | Admitted | TurnedAway:
    """Return the answer to a request, or how it becomes a WebSocket; raises Refused."""
    if is_echo(request, state.services):
        return admit_echo(request, state.services, state.slots)
    match = find_route(request)
    if match.is_socket:
        return await admit_socket(request, match, address, state)
    return await respond(request, match, address, conversation, state)


async def _keep_pace(address: ClientAddress, state: DoorState) -> None:
    """Count a request that leads to no session; one of an address that sends too many is late."""
    if address.countable:
        await trio.sleep(state.request_rates.lateness(address.host, trio.current_time()))


def _went_away(error: Exception) -> bool:
    """Whether an error only says that the client is gone."""
    if isinstance(error, ExceptionGroup):
        return all(map(_went_away, error.exceptions))
    return isinstance(error, (WireBroken, ConnectionOver))
