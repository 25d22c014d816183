"""The small parts of the door: addresses, bad tokens, answers, requests, listening sockets."""

import contextlib
import socket
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.door import bad_tokens, rates
from broker.door.address import ClientAddress
from broker.door.bad_tokens import MAX_ENTRIES, BadTokens
from broker.door.rates import Rates
from broker.door.routes import ROUTES, find_route
from broker.http import describe_listener, listen
from broker.http.answer import Refused, refusal
from broker.http.request import MAX_QUERY_FIELDS, parse_request


@pytest.mark.parametrize(
    ("remote", "host", "countable"),
    [
        ("203.0.113.7:50123", "203.0.113.7", True),
        ("127.0.0.1:1", "127.0.0.1", False),
        ("[2001:db8:1:2:3::9]:1", "2001:db8:1:2::/64", True),
        ("[::1]:1", "::/64", False),
        ("[::ffff:203.0.113.7]:1", "203.0.113.7", True),
        ("[fe80::1%eth0]:1", "fe80::/64", True),
        ("unix", "unix", False),
        ("gone", "gone", False),
    ],
)
def test_client_address(remote: str, host: str, countable: bool) -> None:
    """Limits count an IPv4 address or a v6 network, and never loopback or unix peers."""
    assert ClientAddress.of(remote) == ClientAddress(remote, host, countable)


def test_bad_tokens_are_forgotten_after_a_minute() -> None:
    """The fourth attempt in a minute is refused, one after it is not; another token or address counts for itself."""
    table = BadTokens()
    assert [table.admit("t", "h", now) for now in (0, 1, 2, 3, 59)] == [True, True, True, False, False]
    assert table.admit("other", "h", 3)
    assert table.admit("t", "other", 3)
    assert table.admit("t", "h", 200)


def test_bad_tokens_are_bounded() -> None:
    """A flood of different tokens pushes old entries out instead of growing the table."""
    table = BadTokens()
    for attempt in range(MAX_ENTRIES + 10):
        assert table.admit(str(attempt), "h", 0)
    assert len(table) == MAX_ENTRIES


def test_retry_after_is_a_whole_number_of_seconds() -> None:
    """Retry-After is rounded up and never 0 (RFC 9110 section 10.2.3)."""
    for seconds, header in ((0, "1"), (0.2, "1"), (2, "2"), (2.1, "3")):
        assert dict(refusal(503, "x", "y", retry_after=seconds).answer.headers)["Retry-After"] == header


@given(st.binary(min_size=1, max_size=60), st.binary(max_size=20))
def test_any_target_is_understood_or_refused(target: bytes, host: bytes) -> None:
    """No bytes in a target or a Host raise anything but a refusal."""
    with contextlib.suppress(Refused):
        find_route(parse_request(b"GET", target, ((b"host", host),)))


@given(st.lists(st.sampled_from(["a", "bc", "=", "&", ";", "?", "%3d", "%26", "+"]), max_size=25).map("".join))
def test_queries_are_read_as_the_library_reads_them(query: str) -> None:
    """Name and value in order, however they are written, also where nothing is escaped and a shorter way is taken."""
    request = parse_request(b"GET", b"/ws/?" + query.encode(), ())
    assert list(request.query) == parse_qsl(query, keep_blank_values=True)
    assert request.segments == ("ws", "")


@pytest.mark.parametrize("escaped", [b"", b"%20"])
def test_number_of_fields(escaped: bytes) -> None:
    """A query has so many fields and no more, escaped or not."""
    fields = [b"a=1" + escaped] * MAX_QUERY_FIELDS
    assert len(parse_request(b"GET", b"/?" + b"&".join(fields), ()).query) == MAX_QUERY_FIELDS
    with pytest.raises(Refused) as refused:
        parse_request(b"GET", b"/?" + b"&".join([*fields, b""]), ())
    assert b"the query has more than 32 fields" in refused.value.answer.body


@given(st.lists(st.text(alphabet="abz-_.%/ é:", min_size=1, max_size=8), max_size=3))
def test_names_in_paths_are_decoded_once(parts: list[str]) -> None:
    """A percent-encoded segment comes back as it was, whatever it holds: a slash within it does not part it."""
    from urllib.parse import quote

    target = "/" + "/".join(quote(part, safe="") for part in parts)
    assert parse_request(b"GET", target.encode(), ()).segments == tuple(parts or [""])


def test_every_route_is_found() -> None:
    """Each line of the table is reached by a request for its own path."""
    for route in ROUTES:
        target = "/" + "/".join("x" if segment.startswith("{") else segment for segment in route.pattern)
        headers = ((b"upgrade", b"websocket"),) if route.is_socket else ()
        assert find_route(parse_request(route.method.encode(), target.encode(), headers)).target is route.target


def test_listen_on_tcp() -> None:
    """Port 0 takes a free port, and the description can be listened on; IPv6 stands in brackets."""
    with listen("127.0.0.1:0") as sock:
        host, port = sock.getsockname()
        assert describe_listener(sock) == f"{host}:{port}"
        with pytest.raises(OSError, match="in use"):
            listen(f"127.0.0.1:{port}")
    if socket.has_ipv6:
        with listen("[::1]:0") as sock:
            assert describe_listener(sock).startswith("[::1]:")


def test_listen_on_unix(tmp_path: Path) -> None:
    """A stale unix socket is replaced; a live one, or a file, is left alone."""
    path = tmp_path / "s"
    with listen(f"unix:{path}", mode=0o660) as sock:
        assert describe_listener(sock) == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == 0o660
        with pytest.raises(OSError, match="in use"):
            listen(f"unix:{path}")
    assert path.exists()
    with listen(f"unix:{path}"):
        pass
    path.unlink()
    path.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        listen(f"unix:{path}")
    assert path.read_text() == "precious"


def test_a_bad_token_that_is_tried_again_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood pushes out what was not seen for the longest time: whoever goes on trying stays refused."""
    monkeypatch.setattr(bad_tokens, "MAX_ENTRIES", 2)
    table = BadTokens()
    for now in range(3):
        assert table.admit("stubborn", "h", now)
        assert table.admit(f"other-{now}", "h", now)
    assert not table.admit("stubborn", "h", 3)


def test_an_attempt_counts_for_a_minute() -> None:
    """The fourth attempt is admitted again exactly a minute after the first of the three before it."""
    for now, admitted in ((59.9, False), (60.0, True)):
        table = BadTokens()
        assert [table.admit("t", "h", at) for at in (0, 1, 2, now)] == [True, True, True, admitted]


def test_the_table_of_paces_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of names pushes out the longest unused; whoever goes on asking is held to its rate all the while."""
    monkeypatch.setattr(rates, "MAX_ENTRIES", 2)
    table = Rates(rate=0.1)
    assert table.wait("idle", 0) == 0.0
    for number in range(10):
        assert (table.wait("busy", 0) == 0.0) is (number == 0)
        assert table.wait(str(number), 0) == 0.0
    assert table.wait("idle", 0) == 0.0
