"""The certificate and private key with which a listener speaks TLS."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from broker.config import ConfigError, Problem
from broker.config.cross import unreadable

__all__ = ["server_context"]

_CERTIFICATE, _KEY = "server.tls_certificate", "server.tls_key"


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a context for a server of HTTP/1.1.

    Args:
        certificate: a PEM file with the whole chain.
        key: a PEM file with the private key, not encrypted.

    Raises:
        ConfigError: a file cannot be read or is something else, or the key is not the certificate's.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except _Encrypted:
        raise ConfigError([Problem(_KEY, f"{key} is encrypted: a broker has nobody to ask for the password")]) from None
    except OSError as error:
        problems = [*_wrong_files(certificate, key)] or [_mismatch(certificate, key, error)]
        raise ConfigError(problems) from None
    context.set_alpn_protocols(["http/1.1"])
    return context


class _Encrypted(Exception):
    """The private key is encrypted."""


def _no_password() -> NoReturn:
    raise _Encrypted  # without this, OpenSSL asks whoever sits at the terminal


def _wrong_files(certificate: Path, key: Path) -> Iterator[Problem]:
    if reason := unreadable(certificate):
        yield Problem(_CERTIFICATE, f"{certificate} {reason}")
    elif not _has_certificate(certificate):
        yield Problem(_CERTIFICATE, f"{certificate} is no certificate in PEM form")
    if reason := unreadable(key):
        yield Problem(_KEY, f"{key} {reason}")


def _has_certificate(path: Path) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError:
        return False
    return True


def _mismatch(certificate: Path, key: Path, error: OSError) -> Problem:
    reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
    if reason == "KEY_VALUES_MISMATCH":
        return Problem(_KEY, f"{key} is not the key of {certificate}, the server.tls_certificate")
    if not reason:  # OpenSSL names none for what is no PEM
        return Problem(_KEY, f"{key} is no private key in PEM form")
    return Problem(_CERTIFICATE, f"{certificate} cannot be used with {key}: {reason.replace('_', ' ').lower()}")
