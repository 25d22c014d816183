"""Where a client is: determined in this one place, for limits and logs alike."""

import ipaddress
from functools import lru_cache

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
        host, countable = _place(_host_in(remote))
        return cls(remote, host, countable) if host else cls(remote, remote, countable=False)


def parse_ip(text: str) -> IpAddress | None:
    """Return the IP address in "1.2.3.4", "1.2.3.4:5", "::1" or "[::1]:5", an IPv4 one if it is mapped; else None."""
    return _parse_host(_host_in(text.strip()))


def _host_in(text: str) -> str:
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


def _parse_host(host: str) -> IpAddress | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@lru_cache(maxsize=1024)
def _place(host: str) -> tuple[str, bool]:
    """Return what limits are counted by, "" for what is no IP address, and whether it is countable."""
    address = _parse_host(host)
    if address is None:
        return "", False
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False)), not address.is_loopback
    return str(address), not address.is_loopback
