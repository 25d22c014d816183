"""`signalbox keys`."""

import re
import time

from broker.store.drive import run_sync
from broker.store.key_record import hash_of
from broker.store.keys import lookup_key
from broker.store.layout import Layout
from tests.cli.conftest import Shell
from tests.conftest import Valkey


def test_a_new_key_as_json(shell: Shell, valkey: Valkey) -> None:
    """--json prints exactly what a program needs, and the key is what the broker will find."""
    made = shell.json_line(
        "keys", "add", "--org", "acme", "--workflow", "wf", "--channel", "workflow:*", "--channel", "epic:1",
        "--expires", "90d", "--name", "laptop", "--signature", "optional",
    )  # fmt: skip
    assert list(made) == [
        "key_id", "organization_id", "workflow_id", "api_key", "secret_key", "channels", "expires_at",
    ]  # fmt: skip
    assert re.fullmatch(r"nr_live_[A-Za-z0-9_-]{43}", made["api_key"])
    assert re.fullmatch(r"[0-9a-f]{64}", made["secret_key"])
    assert abs(made["expires_at"] - time.time() - 90 * 86400) < 60
    record = run_sync(valkey.client, lookup_key(Layout(), hash_of(made["api_key"])))
    assert record is not None
    assert (record.key_id, record.organization_id, record.workflow_id) == (made["key_id"], "acme", "wf")
    assert (record.channels, record.name, record.signature) == (("workflow:*", "epic:1"), "laptop", "optional")
    assert record.secret_key == made["secret_key"]


def test_a_new_key_for_people(shell: Shell) -> None:
    """The key and its secret are shown on stdout, what to know about them on stderr."""
    result = shell("keys", "add", "--org", "acme")
    assert re.search(r"^api key +nr_live_", result.stdout, re.MULTILINE)
    assert re.search(r"^secret +[0-9a-f]{64}$", result.stdout, re.MULTILINE)
    assert "it sees every channel of workflow, execution, epic" in result.stderr
    assert "never shown again" in result.stderr
    assert "it sees no channel" in shell("keys", "add", "--org", "acme", "--workflow", "wf").stderr


def test_the_list_has_no_secrets(shell: Shell) -> None:
    """Neither the key nor its secret can be had back; organizations can be told apart."""
    made = shell.json_line("keys", "add", "--org", "acme", "--name", "laptop")
    shell.json_line("keys", "add", "--org", "other")
    for result in (shell("keys", "list"), shell("keys", "list", "--json")):
        assert made["key_id"] in result.stdout
        assert made["api_key"] not in result.output
        assert made["secret_key"] not in result.output
    assert {key["organization_id"] for key in shell.json("keys", "list")} == {"acme", "other"}
    assert [key["key_id"] for key in shell.json("keys", "list", "--org", "acme")] == [made["key_id"]]


def test_the_list_for_people_is_aligned(shell: Shell) -> None:
    """Columns stand below their heads."""
    shell("keys", "add", "--org", "acme", "--name", "a laptop")
    shell("keys", "add", "--org", "a-much-longer-name", "--workflow", "wf")
    head, first, second = shell("keys", "list").stdout.splitlines()
    assert head.index("STATUS") == first.index("active") == second.index("active")


def test_the_list_names_a_damaged_key(shell: Shell, valkey: Valkey) -> None:
    """A hash that is no key any more is said to be one, by its key id."""
    made = shell.json_line("keys", "add", "--org", "acme")
    (name,) = valkey.client.keys("signalbox:key:*")
    valkey.client.hdel(name, "status")
    result = shell("keys", "list", status=1)
    assert f"{made['key_id']} is damaged: status is missing." in result.stderr


def test_no_keys(shell: Shell) -> None:
    """An empty list prints nothing, and a hint where people see it."""
    result = shell("keys", "list")
    assert result.stdout == ""
    assert "keys add --org ORG" in result.stderr
    assert shell.json("keys", "list") == []
    shell("keys", "add", "--org", "acme")
    assert (
        "nobody has no keys; make one with: signalbox keys add --org nobody"
        in shell("keys", "list", "--org", "nobody").stderr
    )


def test_a_channel_that_no_client_can_see(shell: Shell) -> None:
    """A slip in a glob is said when the key is made, not when its browser stays empty."""
    for glob, useless in {
        "control:*": True, "workflow": True, "workflow:": True, "workflows:*": True,
        "*": False, "w*": False, "workflow:*": False, "workflow:a": False, "*:a": False, "?pic:*": False,
    }.items():  # fmt: skip
        said = shell("keys", "add", "--org", "acme", "--channel", "epic:1", "--channel", glob).stderr
        assert (f"No client can ever see what matches {glob}: channels are workflow:NAME, " in said) is useless
        assert (f"it sees the channels that match epic:1 or {glob}." in said) is not useless


def test_rotate(shell: Shell, valkey: Valkey) -> None:
    """A new secret is shown once, and the old one verifies for the overlap, or not at all with --now."""
    made = shell.json_line("keys", "add", "--org", "acme")
    rotated = shell.json_line("keys", "rotate", made["key_id"])
    assert rotated["secret_key"] != made["secret_key"]
    assert rotated["version"] == 2
    record = run_sync(valkey.client, lookup_key(Layout(), hash_of(made["api_key"])))
    assert record is not None
    assert record.verifying_secrets(time.time()) == (rotated["secret_key"], made["secret_key"])
    result = shell("keys", "rotate", made["key_id"], "--now")
    assert "verifies no more" in result.stderr
    record = run_sync(valkey.client, lookup_key(Layout(), hash_of(made["api_key"])))
    assert record is not None
    assert record.verifying_secrets(time.time()) == (record.secret_key,)
    assert f"{record.secret_key}\n" in result.stdout


def test_revoke(shell: Shell) -> None:
    """A revoked key is listed as such, stays so, and cannot be rotated."""
    made = shell.json_line("keys", "add", "--org", "acme")
    assert "Revoked" in shell("keys", "revoke", made["key_id"]).stdout
    assert shell.json_line("keys", "list")["status"] == "revoked"
    assert shell.json_line("keys", "revoke", made["key_id"])["status"] == "revoked"
    assert "is revoked" in shell("keys", "rotate", made["key_id"], status=1).stderr


def test_an_expired_key_is_listed_as_such(shell: Shell, valkey: Valkey) -> None:
    """Expiry is seen without anybody having to write it down."""
    made = shell.json_line("keys", "add", "--org", "acme", "--expires", "1s")
    valkey.client.hset(Layout().key(hash_of(made["api_key"])), "expires_at", "1000")
    assert shell.json_line("keys", "list")["status"] == "expired"


def test_unknown_keys(shell: Shell) -> None:
    """A key id that does not exist is refused, not ignored."""
    for command in ("revoke", "rotate"):
        said = shell("keys", command, "key_x", status=1).stderr
        assert "there is no key key_x." in said
        assert "See: signalbox keys list" in said


def test_another_layout_is_left_alone(shell: Shell, valkey: Valkey) -> None:
    """Data of an incompatible Signalbox is not touched."""
    valkey.client.set(Layout().schema(), "99")
    assert "layout version 99" in shell("keys", "add", "--org", "acme", status=1).stderr
