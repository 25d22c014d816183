"""What a dev broker says of itself."""

import pytest

from broker.daemon.dev import greeting


@pytest.mark.parametrize(
    ("where", "tls", "base"),
    [
        ("127.0.0.1:8765", False, "://127.0.0.1:8765"),
        ("0.0.0.0:8765", False, "://127.0.0.1:8765"),
        ("[::]:8765", False, "://[::1]:8765"),
        ("[::1]:8765", True, "s://[::1]:8765"),
        ("10.0.0.1:8765", True, "s://10.0.0.1:8765"),
    ],
)
def test_addresses_can_be_copied(where: str, tls: bool, base: str) -> None:
    """They say whether there is TLS, and name an address that can be connected to."""
    said = greeting(where, tls=tls, redis="unix:///s", key="KEY", secret="SECRET")
    assert f"    events    ws{base}/ws/?token=KEY\n    control   ws{base}/ws/control/dev\n" in said
    assert f"tail --dev --url ws{base} --token KEY workflow:demo\n" in said
    assert f'secret_key="SECRET",\n                   api_url="http{base}")\n\n  Ctrl-C' in said


def test_a_unix_socket_has_no_url() -> None:
    """The socket is named, and what is printed to be copied works without a URL."""
    said = greeting("unix:/run/s", tls=False, redis="unix:///s", key="KEY", secret="SECRET")
    assert "    events    /ws/?token=KEY on unix:/run/s\n    control   /ws/control/dev on unix:/run/s\n" in said
    assert "tail --dev workflow:demo\n" in said
    assert "://unix" not in said
    assert "api_url" not in said
