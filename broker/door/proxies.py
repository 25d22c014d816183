"""The proxies that are trusted to say who the client is, and how they say it over HTTP (X-Forwarded-For)."""

import ipaddress
from collections.abc import Sequence

import attrs

from broker.door.address import ClientAddress, parse_ip
from broker.http.request import Request

__all__ = ["TrustedProxies"]


class TrustedProxies:
    """Reads client addresses past the proxies that a configuration names, and believes nobody else.

    Args:
        trusted: addresses and networks, and "unix" for peers on a unix socket.
        proxy_protocol: whether connections from them begin with a PROXY protocol header.
    """

    def __init__(self, trusted: Sequence[str] = (), proxy_protocol: bool = False) -> None:
        self._unix = "unix" in trusted
        self._networks = tuple(ipaddress.ip_network(text) for text in trusted if text != "unix")
        self._proxy_protocol = proxy_protocol

    def trusts(self, remote: str) -> bool:
        """Whether a peer, as the wire tells it, is one of the proxies."""
        if not self._networks:
            return self._unix and remote == "unix"
        address = parse_ip(remote)
        if address is None:
            return self._unix and remote == "unix"
        return any(address in network for network in self._networks)

    def announces(self, remote: str) -> bool:
        """Whether the connection of this peer must begin with a PROXY protocol header."""
        return self._proxy_protocol and self.trusts(remote)

    def peer(self, remote: str) -> ClientAddress:
        """Return the address of a connection; a proxy's own is not counted."""
        address = ClientAddress.of(remote)
        if address.countable and self.trusts(remote):
            return attrs.evolve(address, countable=False)
        return address

    def disbelieves(self, peer: ClientAddress, request: Request) -> bool:
        """Whether a request names a client, but comes from nobody who is trusted: an attacker, or a forgotten proxy."""
        return b"x-forwarded-for" in [name for name, _ in request.headers] and not self.trusts(peer.text)

    def client(self, peer: ClientAddress, request: Request) -> ClientAddress:
        """Return who a request is from: the last one in X-Forwarded-For that no trusted proxy vouches past.

        Every proxy appends the address of its own peer, so that the list is right from its end up to the first
        stranger; what stands before that, the stranger may have written. What is no address ends the search, too.
        """
        if not self.trusts(peer.text):
            return peer
        found = peer
        values = (value for name, value in request.headers if name == b"x-forwarded-for")
        hops = b",".join(values).decode("latin-1").split(",")
        for hop in reversed(hops):
            address = parse_ip(hop)
            if address is None:
                break
            found = self.peer(str(address))
            if not self.trusts(found.text):
                break
        return found
