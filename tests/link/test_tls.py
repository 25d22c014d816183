"""rediss://, with Debian's redis-server, which is built with TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio
import trustme

from broker.link.address import Address
from broker.link.subscriptions import SubscriptionLink
from tests.link.servers import Server, debian_redis, eventually, free_port


@attrs.frozen
class TlsServer:
    server: Server
    port: int
    ca: Path

    def url(self, options: str = "") -> str:
        return f"rediss://localhost:{self.port}?ssl_ca_certs={self.ca}{options}"


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[TlsServer]:
    """A redis-server with a certificate for localhost."""
    program = debian_redis()
    authority = trustme.CA()
    ca, key, chain = tmp_path / "ca.pem", tmp_path / "key.pem", tmp_path / "chain.pem"
    authority.cert_pem.write_to_path(str(ca))
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(str(key))
    certificate.cert_chain_pems[0].write_to_path(str(chain))
    port = free_port()
    options = (
        *("--tls-port", str(port), "--tls-cert-file", chain, "--tls-key-file", key),
        *("--tls-ca-cert-file", ca, "--tls-auth-clients", "no"),
    )
    with Server(*options, program=program) as server:
        yield TlsServer(server, port, ca)


async def test_calls_and_messages(tls: TlsServer, nursery: trio.Nursery) -> None:
    """Commands, big values and subscriptions work over TLS, and come back after a kill -9."""
    heard: list[bytes] = []
    restored = trio.Event()

    async def on_push(batch: list[list[bytes]]) -> None:
        heard.extend(message[2] for message in batch)

    link = SubscriptionLink(
        Address.parse(tls.url()), "test", on_push=on_push, on_restored=restored.set, backoff=(0.001, 0.01)
    )
    await nursery.start(link.run)
    big = b"x" * 3_000_000
    assert await link.call("SET", "big", big) == b"OK"
    assert await link.call("GET", "big") == big
    with trio.fail_after(20):
        await link.subscribe(b"a").wait()
    tls.server.client.publish("a", "before")
    await eventually(lambda: heard == [b"before"])
    tls.server.kill()
    await eventually(lambda: not link.state.up)
    tls.server.start()
    with trio.fail_after(20):
        await restored.wait()
    tls.server.client.publish("a", "after")
    await eventually(lambda: heard == [b"before", b"after"])


async def test_failure_under_a_batch(tls: TlsServer, nursery: trio.Nursery) -> None:
    """A TLS connection that is given up while a batch is handled ends in order, and is replaced."""
    entered, go_on = trio.Event(), trio.Event()

    async def on_push(_batch: list[list[bytes]]) -> None:
        entered.set()
        await go_on.wait()

    link = SubscriptionLink(Address.parse(tls.url()), "test", on_push=on_push, backoff=(0.001, 0.01))
    await nursery.start(link.run)
    with trio.fail_after(20):
        await link.subscribe(b"a").wait()
    tls.server.client.publish("a", "x")
    await entered.wait()
    tls.server.kill()
    await eventually(lambda: _broken_by_writing(link, nursery))
    assert link.generation == 1
    tls.server.start()
    go_on.set()
    with trio.fail_after(20):
        await link.wait_up()
    assert link.generation == 2


def _broken_by_writing(link: SubscriptionLink, nursery: trio.Nursery) -> bool:
    # The reader is busy, so that only the writer can notice.
    link.subscribe(b"another %d" % link.wanted)
    return not link.state.up


async def test_unknown_authority(tls: TlsServer, nursery: trio.Nursery) -> None:
    """A certificate that nobody we trust has signed is not accepted, and the reason is told."""
    link = SubscriptionLink(Address.parse(f"rediss://localhost:{tls.port}"), "test")
    await nursery.start(link.run)
    assert not link.state.up
    assert "certificate verify failed" in str(link.state.error)


async def test_wrong_name(tls: TlsServer, nursery: trio.Nursery) -> None:
    """A certificate for another name is not accepted, unless the URL says that names do not matter."""
    strict = f"rediss://127.0.0.1:{tls.port}?ssl_ca_certs={tls.ca}"
    link = SubscriptionLink(Address.parse(strict), "strict")
    await nursery.start(link.run)
    assert "certificate verify failed" in str(link.state.error)
    link = SubscriptionLink(Address.parse(f"{strict}&ssl_check_hostname=false"), "lax")
    await nursery.start(link.run)
    assert link.state.up


async def test_plain_connection_to_a_tls_port(tls: TlsServer, nursery: trio.Nursery) -> None:
    """redis:// to a TLS port does not come up, and does not hang."""
    link = SubscriptionLink(Address(port=tls.port), "test")
    await nursery.start(link.run)
    assert not link.state.up
