"""The opening handshake, as a client of another implementation sees it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request

from protocol.codes import ErrorCode
from protocol.errors import ProtocolError
from protocol.upgrade import Upgrade, accept_key, check_upgrade, switching_protocols
from tests.protocol.strategies import attempt, examples

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HEADERS = {
    b"Host": b"server.example.com",
    b"Upgrade": b"websocket",
    b"Connection": b"Upgrade",
    b"Sec-WebSocket-Key": KEY.encode(),
    b"Sec-WebSocket-Version": b"13",
}


def headers(changes: dict[bytes, bytes | None] | None = None) -> list[tuple[bytes, bytes]]:
    """Give the headers of a good request, some replaced or taken away."""
    return [(name, value) for name, value in (HEADERS | (changes or {})).items() if value is not None]


def test_the_example_of_the_standard() -> None:
    """RFC 6455 section 1.3."""
    assert accept_key(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert check_upgrade("GET", headers()) == Upgrade(KEY)
    assert switching_protocols(KEY) == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )


def test_lists_and_cases_as_clients_write_them() -> None:
    """Tokens in lists, in any case, over several headers; offers in the client's order."""
    request = [
        *headers({b"Upgrade": b"WebSocket", b"Connection": b"keep-alive, Upgrade"}),
        (b"sec-websocket-protocol", b"signalbox, bearer.abc"),
        (b"Sec-WebSocket-Protocol", b"no token, \xff,ok"),
        (b"sec-websocket-extensions", b"permessage-deflate; client_max_window_bits, x"),
    ]
    assert check_upgrade(b"GET", request) == Upgrade(
        KEY, ("signalbox", "bearer.abc", "ok"), ("permessage-deflate; client_max_window_bits", "x")
    )


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({b"Upgrade": None}, ErrorCode.UPGRADE_REQUIRED, "Upgrade must be websocket"),
        ({b"Upgrade": b"h2c"}, ErrorCode.UPGRADE_REQUIRED, "Upgrade must be websocket"),
        ({b"Connection": b"keep-alive"}, ErrorCode.UPGRADE_REQUIRED, "Connection must be Upgrade"),
        ({b"Sec-WebSocket-Version": None}, ErrorCode.BAD_UPGRADE, "13"),
        ({b"Sec-WebSocket-Version": b"8"}, ErrorCode.BAD_UPGRADE, "13"),
        ({b"Sec-WebSocket-Key": None}, ErrorCode.BAD_UPGRADE, "Sec-WebSocket-Key must be there once"),
        ({b"sec-websocket-key": KEY.encode()}, ErrorCode.BAD_UPGRADE, "Sec-WebSocket-Key must be there once"),
        ({b"Sec-WebSocket-Key": b""}, ErrorCode.BAD_UPGRADE, "16 bytes"),
        ({b"Sec-WebSocket-Key": b"dGhl"}, ErrorCode.BAD_UPGRADE, "16 bytes"),
        ({b"Sec-WebSocket-Key": b"\xff" * 24}, ErrorCode.BAD_UPGRADE, "16 bytes"),
        ({b"Sec-WebSocket-Key": b"dGhlIHNhbXBs ZSBub25jZQ=="}, ErrorCode.BAD_UPGRADE, "16 bytes"),
    ],
)
def test_faulty_requests(changes: dict[bytes, bytes | None], code: ErrorCode, says: str) -> None:
    """Each fault has its code and a sentence that names the header."""
    with pytest.raises(ProtocolError, match=says) as caught:
        check_upgrade("GET", headers(changes))
    assert caught.value.code == code


def test_only_get_upgrades() -> None:
    """Whatever the headers say."""
    with pytest.raises(ProtocolError, match="GET"):
        check_upgrade("POST", headers())


@given(
    method=st.sampled_from(["GET", "POST", ""]),
    extra=st.lists(
        st.tuples(st.sampled_from([name.lower() for name in HEADERS] + [b"sec-websocket-protocol"]), st.binary())
    ),
    without=st.sets(st.sampled_from(sorted(HEADERS))),
)
@examples
def test_any_headers_give_an_upgrade_or_the_one_error(
    method: str, extra: list[tuple[bytes, bytes]], without: set[bytes]
) -> None:
    """No bytes in any header raise anything but ProtocolError, and what passes can be answered."""
    result = attempt(check_upgrade, method, headers(dict.fromkeys(without)) + extra)
    if isinstance(result, ProtocolError):
        assert result.code in {ErrorCode.BAD_UPGRADE, ErrorCode.UPGRADE_REQUIRED}
    else:
        for subprotocol in (None, *result.subprotocols):
            assert switching_protocols(result.key, subprotocol).isascii()


def test_a_client_of_wsproto_accepts_the_answer() -> None:
    """Key, subprotocol and extension arrive as they were given."""
    client = WSConnection(ConnectionType.CLIENT)
    request = client.send(Request(host="localhost", target="/ws/", subprotocols=["signalbox", "other"]))
    pairs = [tuple(line.split(b": ", 1)) for line in request.split(b"\r\n")[1:] if line]
    upgrade = check_upgrade("GET", [(pair[0], pair[1]) for pair in pairs])
    assert upgrade.subprotocols == ("signalbox", "other")
    client.receive_data(switching_protocols(upgrade.key, "signalbox"))
    (event,) = client.events()
    assert isinstance(event, AcceptConnection)
    assert event.subprotocol == "signalbox"


def test_an_extension_is_answered_with_its_parameters() -> None:
    """As it was negotiated, on a line of its own."""
    answer = switching_protocols(KEY, extensions="permessage-deflate; server_no_context_takeover")
    assert answer.endswith(b"\r\nSec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n\r\n")


@pytest.mark.parametrize("value", ["a\r\nb", "", "a b", "é"])
def test_no_header_can_be_smuggled_into_the_answer(value: str) -> None:
    """A subprotocol is one token, an extension one line."""
    with pytest.raises(ValueError, match="not a subprotocol"):
        switching_protocols(KEY, subprotocol=value)
    with pytest.raises(ValueError, match="not a list of extensions"):
        switching_protocols(KEY, extensions="x\r\n" + value)


def test_two_versions_are_none() -> None:
    """A request that names its version twice is refused, whichever of them a proxy between us would believe."""
    with pytest.raises(ProtocolError, match="13"):
        check_upgrade("GET", [*headers(), (b"Sec-WebSocket-Version", b"8")])
