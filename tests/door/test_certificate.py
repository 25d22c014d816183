"""The certificate and key that a listener is given."""

import ssl
from contextlib import suppress
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from broker.config import ConfigError
from broker.http.certificate import server_context

KEY, CERTIFICATE = "server.tls_key", "server.tls_certificate"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the certificates and keys of two servers, and what is none."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("one", "two"):
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / f"{name}.ca")
        issued = authority.issue_cert("localhost")
        issued.cert_chain_pems[0].write_to_path(folder / f"{name}.crt")
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
    key = load_pem_private_key((folder / "one.key").read_bytes(), None)
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    (folder / "encrypted").write_bytes(encrypted)
    (folder / "half").write_bytes((folder / "one.crt").read_bytes()[:300])
    (folder / "junk").write_text("junk")
    return folder


def test_a_certificate_and_its_key(files: Path) -> None:
    """They make a context."""
    assert server_context(files / "one.crt", files / "one.key").get_ca_certs() == []


@pytest.mark.parametrize(
    ("certificate", "key", "says"),
    [
        ("none", "junk", [(CERTIFICATE, "{}/none cannot be read: No such file or directory")]),
        ("one.crt", "none", [(KEY, "{}/none cannot be read: No such file or directory")]),
        ("junk", "one.key", [(CERTIFICATE, "{}/junk is no certificate in PEM form")]),
        ("half", "one.key", [(CERTIFICATE, "{}/half is no certificate in PEM form")]),
        ("one.crt", "junk", [(KEY, "{}/junk is no private key in PEM form")]),
        ("one.crt", "one.crt", [(KEY, "{}/one.crt is no private key in PEM form")]),
        ("one.crt", "two.key", [(KEY, "{0}/two.key is not the key of {0}/one.crt, the server.tls_certificate")]),
        ("one.crt", "encrypted", [(KEY, "{}/encrypted is encrypted: a broker has nobody to ask for the password")]),
        (
            "junk",
            "none",
            [
                (CERTIFICATE, "{}/junk is no certificate in PEM form"),
                (KEY, "{}/none cannot be read: No such file or directory"),
            ],
        ),
    ],
)
def test_files_that_are_no_pair(files: Path, certificate: str, key: str, says: list[tuple[str, str]]) -> None:
    """What is wrong is said of the file that is wrong, in other words than OpenSSL's."""
    with pytest.raises(ConfigError) as caught:
        server_context(files / certificate, files / key)
    found = [(problem.key, problem.message) for problem in caught.value.problems]
    assert found == [(name, message.format(files)) for name, message in says]


def test_what_a_listener_speaks(files: Path) -> None:
    """HTTP/1.1 with clients that would rather have HTTP/2, and no TLS before 1.2."""
    context = server_context(files / "one.crt", files / "one.key")
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    theirs = ssl.create_default_context(cafile=files / "one.ca")
    theirs.set_alpn_protocols(["h2", "http/1.1"])
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = theirs.wrap_bio(back, there, server_hostname="localhost")
    server = context.wrap_bio(there, back, server_side=True)
    for end in (client, server, client, server):
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    assert (client.selected_alpn_protocol(), server.selected_alpn_protocol()) == ("http/1.1", "http/1.1")
