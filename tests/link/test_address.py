"""Redis URLs."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from broker.link.address import Address


def test_tcp_url() -> None:
    """Host, port, db and credentials are read, percent-encoded characters included."""
    address = Address.parse("redis://app:p%40ss@db.example:6380/3")
    assert (address.host, address.port, address.db) == ("db.example", 6380, 3)
    assert (address.username, address.password) == ("app", "p@ss")
    assert address.path is None
    assert address.tls is None


def test_unix_url() -> None:
    """A unix socket's path, db and password are read."""
    address = Address.parse("unix://:secret@/run/redis/redis.sock?db=2")
    assert (address.path, address.db, address.password) == ("/run/redis/redis.sock", 2, "secret")


def test_tls_url() -> None:
    """rediss:// verifies certificates and names unless told otherwise."""
    address = Address.parse("rediss://db.example")
    assert address.tls is not None
    assert address.tls.verify_mode is ssl.CERT_REQUIRED
    assert address.tls.check_hostname
    lax = Address.parse("rediss://db.example?ssl_cert_reqs=none")
    assert lax.tls is not None
    assert lax.tls.verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://app:hunter2@h:1/2", "redis://app@h:1/2"),
        ("redis://:hunter2@[::1]:1", "redis://[::1]:1/0"),
        ("rediss://app:hunter2@h", "rediss://app@h:6379/0"),
        ("unix://app:hunter2@/s?db=1", "unix://app@/s?db=1"),
    ],
)
def test_password_is_never_shown(url: str, shown: str) -> None:
    """Neither describe() nor repr() shows the password."""
    address = Address.parse(url)
    assert address.describe() == shown
    assert "hunter2" not in repr(address)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "starts with redis://"),
        ("http://hunter2@h", "starts with redis://"),
        ("redis://:hunter2/#@h:6379", "percent-encoded"),
        ("redis://h:port", "percent-encoded"),
        ("redis://h/first", "number of the db"),
        ("redis://h?db=x", "'db'"),
        ("redis://h?db=-1", "from 0"),
        ("redis://h?wat=1", "unknown option 'wat'"),
        ("redis://h?ssl_ca_certs=/x", "needs a rediss:// URL"),
        ("rediss://h?ssl_ca_certs=/nowhere/ca.pem", "/nowhere/ca.pem"),
        ("rediss://h?ssl_ca_certs=/nowhere/ca.pem&ssl_password=hunter2", "/nowhere/ca.pem"),
        ("rediss://h?ssl_cert_reqs=perhaps", "perhaps"),
        ("rediss://h?ssl_wat=1", "ssl_wat"),
        ("unix://", "names the socket's path"),
        ("redis://a..b", "no host name"),
        ("redis://h%00", "zero byte"),
        ("unix:///a%00b", "zero byte"),
        ("redis://user:1?hunter2=x@h", "percent-encoded"),
    ],
)
def test_wrong_urls(url: str, says: str) -> None:
    """Each mistake is named in a ValueError that does not repeat the password."""
    with pytest.raises(ValueError, match=says) as caught:
        Address.parse(url)
    assert "hunter2" not in str(caught.value)


def test_settings_of_pools_are_ignored(tmp_path: Path) -> None:
    """A URL that is shared with redis-py's own clients may tune their pools."""
    assert Address.parse("redis://h?socket_timeout=3&max_connections=5&protocol=3") == Address(host="h")
