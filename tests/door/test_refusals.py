"""What the log says of those who are refused: why, what they asked for, which key, and where they are."""

import pytest
from structlog.testing import capture_logs

from broker.config import Config, Events
from tests.door.conftest import Site
from tests.support import Rejected


@pytest.mark.parametrize(
    ("headers", "hint"),
    [
        ({"X_API_Key": "nr_live_signed"}, "control.handshake_signature"),
        ({"X_API_Key": "nr_live_strict"}, "keys add --signature required"),
        ({"X_API_Key": "nr_live_good", "X_Signature": "00" * 32}, None),
        ({"X_API_Key": "nr_live_good", "X_Signature_Timestamp": "1"}, None),
    ],
)
async def test_the_hint_names_what_asks_for_a_signature(site: Site, headers: dict[str, str], hint: str | None) -> None:
    """An unsigned upgrade is refused by its key's own rule or by the setting; half a signature by neither."""
    with capture_logs() as logs, pytest.raises(Rejected) as refused:
        await site.websocket("/ws/control/acme", **headers)
    assert refused.value.error_code == "signature_missing"
    (line,) = [line for line in logs if line["event"].startswith("refused: ")]
    assert hint in line["hint"] if hint else "hint" not in line


@pytest.mark.parametrize("config", [Config(events=Events(allowed_origins=("https://good.example",)))])
@pytest.mark.parametrize(
    ("target", "headers", "code", "key_id"),
    [
        ("/ws/control/acme", {"X_API_Key": "nr_live_wrong"}, "api_key_unknown", None),
        ("/ws/control/acme", {"X_API_Key": "nr_live_signed"}, "signature_missing", "k2"),
        ("/ws/control/acme", {"X_API_Key": "nr_live_other"}, "wrong_organization", "k3"),
        ("/ws/?token=nr_live_wrong", {}, "api_key_unknown", None),
        ("/ws/?token=nr_live_expired", {}, "api_key_expired", "k4"),
        ("/ws/?token=nr_live_good", {"Origin": "https://evil.example"}, "origin_not_allowed", None),
    ],
)
async def test_a_refusal_names_the_address(
    site: Site, config: Config, target: str, headers: dict[str, str], code: str, key_id: str | None
) -> None:
    """One line tells code, path, address and the key if there is such a key; never what was presented."""
    with capture_logs() as logs:
        try:
            client = await site.websocket(target, **headers)
        except Rejected:
            pass
        else:  # a browser is let in, to be told by the close
            await client.close()
    (line,) = [line for line in logs if line["event"].startswith("refused: ")]
    assert (line["code"], line["path"], line.get("key_id")) == (code, target.partition("?")[0], key_id)
    assert line["remote"].startswith("127.0.0.1:")
    assert "nr_live" not in str(logs)


@pytest.mark.parametrize("config", [Config(events=Events(allowed_origins=("https://good.example",)))])
async def test_origins_without_end_are_one_line(site: Site, config: Config) -> None:
    """A stranger who makes up an origin for each request gets one line, with no more of it than an origin may have."""
    with capture_logs() as logs:
        for number in range(5):
            with pytest.raises(Rejected):
                await site.websocket("/ws/", Origin=f"https://{number}.example/" + "x" * 500)
    (line,) = [line for line in logs if line["event"].startswith("refused: ")]
    assert line["origin"] == ("https://0.example/" + "x" * 500)[:255]
