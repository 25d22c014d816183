"""Where a client is: determined in this one place, for limits and logs alike."""

import ipaddress

import attrs

__all__ = ["ClientAddress", "IpAddress", "parse_ip"]

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@attrs.frozen
class ClientAddress:
    """The address of a client.

    Attributes:
        text: for the log: "203.0.113.7:50123", "[2001:db8::1]:50123" or "unix"; behind a proxy without a port.
        host: what limits are counted by: an IPv4 address, the /64 of an IPv6 address, or "unix".
        countable: False for loopback and unix peers and for trusted proxies, which stand for many clients, not for one.
    """

    text: str
    host: str
    countable: bool

    @property
    def counted(self) -> str | None:
        """What limits are counted by, None for an address that is not counted."""
        return self.host if self.countable else None

    @classmethod
    def of(cls, remote: str) -> "ClientAddress":
        """Read the address of a connection as the wire tells it, or of a client as a proxy tells it."""
        address = parse_ip(remote)
        if address is None:
            return cls(remote, remote, False)
        if isinstance(address, ipaddress.IPv6Address):
            return cls(remote, str(ipaddress.ip_network((address, 64), strict=False)), not address.is_loopback)
        return cls(remote, str(address), not address.is_loopback)


def parse_ip(text: str) -> IpAddress | None:
    """Return the IP address in "1.2.3.4", "1.2.3.4:5", "::1" or "[::1]:5", an IPv4 one if it is mapped; else None."""
    host = text.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
