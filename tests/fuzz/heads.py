"""Request heads: the short way agrees with h11, and whatever h11 lets through is understood or refused."""

import h11

from broker.door.address import ClientAddress
from broker.door.credentials import event_credential, presented_key, selected_subprotocol
from broker.door.proxies import TrustedProxies
from broker.http.answer import Refused
from broker.http.head import PlainHead, read_plain_upgrade
from broker.http.request import Request, parse_request
from protocol.deflate import agree_on
from protocol.errors import ProtocolError
from protocol.upgrade import check_upgrade, switching_protocols
from tests.fuzz.target import Outcome, Target, pieces

MAX_HEAD = 1024
PROXIES = TrustedProxies(("10.0.0.0/8", "fd00::/8", "unix"))
PEERS = (ClientAddress.of("10.1.2.3:4"), ClientAddress.of("unix"), ClientAddress.of("203.0.113.9:1"))


def run(data: bytes) -> Outcome:
    """Read a head in both ways, at once and in pieces."""
    data = data[:MAX_HEAD]  # as much is read of a head
    plain = read_plain_upgrade(data)
    event, trailing = _h11([data])
    again, _ = _h11(pieces(data))
    if isinstance(event, h11.Request) or isinstance(again, h11.Request):
        assert repr(event) == repr(again), "it matters how a head is cut"
    if plain is not None:
        _same(plain, event, trailing, data)
    if not isinstance(event, h11.Request):
        return str(event)[:40]
    headers = tuple((bytes(name), bytes(value)) for name, value in event.headers)
    try:
        request = parse_request(event.method, event.target, headers, event.http_version)
    except Refused as refused:
        return refused.answer.status, refused.answer.body[:60]
    return plain is not None, _use(request)


def _h11(given: list[bytes]) -> tuple[object, bytes]:
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    event: object = h11.NEED_DATA
    try:
        for piece in given:
            parser.receive_data(piece)
            if event is h11.NEED_DATA:
                event = parser.next_event()
        return event, bytes(parser.trailing_data[0])
    except h11.RemoteProtocolError as error:
        return f"{error.error_status_hint} {error}"[:30], b""


def _same(plain: PlainHead, event: object, trailing: bytes, data: bytes) -> None:
    assert isinstance(event, h11.Request), f"the short way took what h11 refuses: {event!r}"
    assert event.method == b"GET"
    assert event.target == plain.target
    assert tuple((bytes(name), bytes(value)) for name, value in event.headers) == plain.headers
    assert trailing == data[plain.size :]


def _use(request: Request) -> Outcome:
    found: list[object] = [len(request.segments), request.has_body, request.is_upgrade]
    request.path.encode("utf-8", "surrogatepass")
    for peer in PEERS:
        PROXIES.client(peer, request)
    for read in (presented_key, _upgrade):
        try:
            read(request)
            found.append(read.__name__)
        except Refused as refused:
            found.append(refused.answer.status)
        except ProtocolError as error:
            found.append(str(error.code))
    return tuple(found)


def _upgrade(request: Request) -> None:
    upgrade = check_upgrade(request.method, request.headers)
    credential = event_credential(request, upgrade.subprotocols)
    selected = selected_subprotocol(upgrade.subprotocols)
    agreed = agree_on(upgrade.extensions)
    answer = switching_protocols(upgrade.key, selected, agreed.answer if agreed else None)
    assert answer.count(b"\r\n\r\n") == 1
    assert answer.isascii()
    assert not (len(credential.text) > 16 and credential.text.encode() in answer), "a credential comes back"


UPGRADE = (
    b"GET /ws/?token=abc%20d HTTP/1.1\r\nHost: a.test:80\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: signalbox, bearer.abcdefghijklmnopqrstuvwx\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    b"X-Forwarded-For: 1.2.3.4, [fd00::1]:5, 10.0.0.2\r\nAuthorization: Bearer xyz\r\nX-API-Key: xyz\r\n\r\n"
)
CORPUS = (
    UPGRADE,
    UPGRADE + b"\x81\x80\0\0\0\0",
    b"POST /api/v1/auth/verify HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabcd",
    b"GET http://a.test/ws/control/o%2Fp?x=1&y HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HEAD /health/ready HTTP/1.0\r\n\r\n",
    b"GET /ws HTTP/1.1\r\nHost: [::1]\r\nupgrade: WebSocket\r\nconnection: upgrade\r\n\r\n",
)
WORDS = (
    b"\r\n", b"\r\n\r\n", b"\n", b"\r", b" ", b"\t", b": ", b":", b"\0", b"\xff", b"%", b"%2", b"%ff", b"%00",
    b"..", b"//", b"#",
    b"?", b"Host: b\r\n", b"Content-Length: 9\r\n", b"Content-Length: +1\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n", b"Upgrade: websocket\r\n", b"X-API-Key: q\r\n", b"Sec-WebSocket-Version: 8\r\n",
    b"HTTP/1.0", b"HTTP/2.0", b"GET ", b"POST ", b"OPTIONS ", b"http://", b"token=", b"&" * 40, b"websocket", b"13",
    b"A" * 600, b"permessage-deflate", b"; server_max_window_bits=8", b",", b";", b"=", b'"', b"1.2.3.4", b"::1", b"[",
)  # fmt: skip

TARGET = Target("heads", CORPUS, WORDS, run, share=0.3)
