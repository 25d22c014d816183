"""Where a client is: determined in this one place, for limits and logs alike."""

import ipaddress

import attrs

__all__ = ["ClientAddress"]


@attrs.frozen
class ClientAddress:
    """The address of a client.

    Attributes:
        text: for the log: "203.0.113.7:50123", "[2001:db8::1]:50123" or "unix".
        host: what limits are counted by: an IPv4 address, the /64 of an IPv6 address, or "unix".
        countable: False for loopback and unix peers, which stand for a proxy or many local programs, not for one
            client.
    """

    text: str
    host: str
    countable: bool

    @classmethod
    def of(cls, remote: str) -> "ClientAddress":
        """Read the address of a connection as the wire tells it."""
        host = remote.rpartition(":")[0].strip("[]")
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return cls(remote, remote, False)
        if isinstance(address, ipaddress.IPv6Address):
            if address.ipv4_mapped is not None:
                address = address.ipv4_mapped
            else:
                network = ipaddress.ip_network((address, 64), strict=False)
                return cls(remote, str(network), not address.is_loopback)
        return cls(remote, str(address), not address.is_loopback)
