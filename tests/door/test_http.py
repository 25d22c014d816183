"""Plain HTTP on the public port: health, REST, keep-alive, and what is refused how."""

import pytest

from protocol.signing import body_hash, signature
from tests.door.conftest import NOW, SECRET, Site
from tests.support import RawClient


async def test_health(site: Site) -> None:
    """A process that answers is alive; it is ready unless there are problems, which it names."""
    async with await site.raw() as client:
        assert (await client.request("GET", "/health/live")).json == {"status": "live"}
        assert (await client.request("GET", "/healthz")).status == 200
        assert (await client.request("GET", "/health/ready")).json == {"status": "ready"}
        site.problems.append("redis_down")
        for path in ("/health/ready", "/health"):
            reply = await client.request("GET", path)
            assert (reply.status, reply.json) == (503, {"status": "not_ready", "problems": ["redis_down"]})


async def test_unix_socket(site: Site) -> None:
    """The door serves a unix socket just as well."""
    async with await RawClient.connect(site.path) as client:
        assert (await client.request("GET", "/health/live")).status == 200


async def test_every_answer_is_json_with_date_and_length(site: Site) -> None:
    """Answers carry the headers that caches and clients rely on."""
    async with await site.raw() as client:
        reply = await client.request("GET", "/nothing")
    assert reply.status == 404
    assert reply.error_code == "not_found"
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["date"].endswith("GMT")
    assert "connection" not in reply.headers


async def test_head(site: Site) -> None:
    """HEAD is answered as GET is, without the body, and the connection goes on."""
    async with await site.raw() as client:
        reply = await client.request("HEAD", "/health/live")
        assert (reply.status, reply.body, reply.headers["content-length"]) == (200, b"", "17")
        assert (await client.request("GET", "/health/live")).status == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/health/live", "GET, HEAD"),
        ("GET", "/api/v1/auth/verify", "POST"),
        ("DELETE", "/ws/", "GET"),
        ("HEAD", "/ws/control/acme", "GET"),
    ],
)
async def test_wrong_method(site: Site, method: str, path: str, allowed: str) -> None:
    """Another method than a path has is refused with 405, which names those that it has."""
    async with await site.raw() as client:
        reply = await client.request(method, path)
    assert (reply.status, reply.headers["allow"]) == (405, allowed)


async def test_pipelined_requests(site: Site) -> None:
    """Requests sent in one go are answered one by one, in order; `Connection: close` on the last is obeyed."""
    async with await site.raw() as client:
        one = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
        two = b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n"
        last = b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        await client.send(one + two + one + last)
        replies = [await client.reply() for _ in range(4)]
        assert [reply.status for reply in replies] == [200, 404, 200, 200]
        assert replies[-1].headers["connection"] == "close"
        assert await client.read_to_end() == b""


async def test_connection_ends_after_so_many_requests(site: Site) -> None:
    """A connection may bring `max_requests`; the last answer says that it closes."""
    async with await site.raw() as client:
        for _ in range(19):
            assert "connection" not in (await client.request("GET", "/health/live")).headers
        assert (await client.request("GET", "/health/live")).headers["connection"] == "close"
        assert await client.read_to_end() == b""


async def test_http_1_0(site: Site) -> None:
    """An HTTP/1.0 client gets its answer and the end of the connection."""
    async with await site.raw() as client:
        await client.send(b"GET /health/live HTTP/1.0\r\n\r\n")
        assert (await client.reply()).status == 200
        assert await client.read_to_end() == b""


async def test_absolute_target(site: Site) -> None:
    """The absolute form of a target, as sent to proxies, is understood (RFC 9112 section 3.2.2)."""
    async with await site.raw() as client:
        assert (await client.request("GET", "http://broker.test/health/live")).status == 200
        assert (await client.request("GET", "HTTP://broker.test?x=1")).status == 404


async def test_expect_continue(site: Site) -> None:
    """A client that waits for 100 before it sends its body is told to go on."""
    async with await site.raw() as client:
        await client.send(
            b"POST /api/v1/auth/verify HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 27\r\n\r\n"
        )
        assert (await client.reply()).status == 100
        await client.send(b'{"api_key": "nr_live_good"}')
        assert (await client.reply()).json["key_id"] == "k1"


async def test_chunked_body(site: Site) -> None:
    """A chunked body is put together."""
    async with await site.raw() as client:
        await client.send(
            b"POST /api/v1/auth/verify HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            b'd\r\n{"api_key": "\r\ne\r\nnr_live_good"}\r\n0\r\n\r\n'
        )
        assert (await client.reply()).json["key_id"] == "k1"
        assert (await client.request("GET", "/health/live")).status == 200


async def test_auth_verify(site: Site) -> None:
    """A key is verified from the body alone, or with headers that name the same key; a signature covers the body."""
    body = b'{"api_key": "nr_live_signed"}'
    async with await site.raw() as client:
        reply = await client.request("POST", "/api/v1/auth/verify", body=body)
        assert (reply.status, reply.json) == (200, {"key_id": "k2", "signed": False})
        headers = {
            "X-API-Key": "nr_live_signed",
            "Authorization": "Bearer nr_live_signed",
            "X-Signature": signature(SECRET, NOW, "nr_live_signed", body_hash(body)),
            "X-Signature-Timestamp": str(NOW),
        }
        reply = await client.request("POST", "/api/v1/auth/verify", headers, body)
        assert (reply.status, reply.json) == (200, {"key_id": "k2", "signed": True})
        reply = await client.request("POST", "/api/v1/auth/verify", headers, body.replace(b": ", b":"))
        assert (reply.status, reply.error_code) == (401, "signature_wrong")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v1/auth/verify"),
        ("GET", "/api/v1/status/wf"),
        ("GET", "/api/v1/orgs/acme/status"),
        ("POST", "/api/v1/tickets"),
    ],
)
async def test_rest_requires_no_signature(site: Site, method: str, path: str) -> None:
    """A key whose upgrades must be signed does everything else without; a signature that is there must be right."""
    headers = {"X-API-Key": "nr_live_strict"}
    body = b'{"api_key": "nr_live_strict"}' if path.endswith("verify") else b""
    async with await site.raw() as client:
        assert (await client.request(method, path, headers, body)).status == 200
        wrong = {**headers, "X-Signature": "00" * 32, "X-Signature-Timestamp": str(NOW)}
        reply = await client.request(method, path, wrong, body)
        assert (reply.status, reply.error_code) == (401, "signature_wrong")


@pytest.mark.parametrize(
    ("key", "body", "status", "code"),
    [
        ("nr_live_good", b'{"api_key": "nr_live_signed"}', 401, "api_key_mismatch"),
        (None, b'{"api_key": "wrong"}', 401, "api_key_unknown"),
        (None, b'{"api_key": 1}', 400, "bad_request"),
        (None, b"[]", 400, "bad_request"),
        (None, b"", 400, "bad_request"),
    ],
)
async def test_auth_verify_refused(site: Site, key: str | None, body: bytes, status: int, code: str) -> None:
    """Keys that differ, that nobody knows, or bodies that name none are refused; the connection goes on."""
    async with await site.raw() as client:
        headers = {} if key is None else {"X-API-Key": key}
        reply = await client.request("POST", "/api/v1/auth/verify", headers, body)
        assert (reply.status, reply.error_code) == (status, code)
        assert (await client.request("GET", "/health/live")).status == 200


@pytest.mark.parametrize(
    ("path", "key", "status", "says"),
    [
        ("/api/v1/status/wf", "nr_live_good", 200, {"organization_id": "acme", "workflow_id": "wf"}),
        ("/api/v1/status/wf", "nr_live_other", 200, {"organization_id": "umbrella", "workflow_id": "wf"}),
        ("/api/v1/orgs/acme/status", "nr_live_good", 200, {"organization_id": "acme", "workflows": []}),
        ("/api/v1/orgs/acme/status", "nr_live_other", 403, "wrong_organization"),
        ("/api/v1/orgs/acme/status", "wrong", 401, "api_key_unknown"),
        ("/api/v1/orgs/acme/status", None, 401, "api_key_missing"),
        ("/api/v1/status/%20", "nr_live_good", 404, "not_found"),
        ("/api/v1/status/", "nr_live_good", 404, "not_found"),
    ],
)
async def test_status(site: Site, path: str, key: str | None, status: int, says: object) -> None:
    """A key sees its own organization's states and nobody else's; REST asks for no signature."""
    async with await site.raw() as client:
        reply = await client.request("GET", path, {} if key is None else {"X-API-Key": key})
        assert reply.status == status
        assert says in (reply.json, reply.json.get("error", {}).get("code"))
