"""`signalbox kill`, `pause`, `resume` and `status`."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TypeVar

import pytest

from broker.cli.receipts import wait_for_receipts
from broker.cli.target import Target
from broker.config import load
from broker.store.brokers import heartbeat
from broker.store.drive import run_sync
from broker.store.layout import Layout
from broker.store.log import parse_live
from broker.store.presence import Presence, put_presence, remove_presence
from broker.store.receipts import Addressee, Delivery, acknowledge, deliver, mark
from broker.store.request import Operation
from protocol.codec import decode_control_server
from protocol.control import StateChange
from tests.cli.conftest import Shell
from tests.conftest import Valkey

LAYOUT = Layout()
T = TypeVar("T")
Do = Callable[[Operation[T]], T]


@pytest.fixture
def org(shell: Shell) -> str:
    """Return an organization that has a key."""
    shell("keys", "add", "--org", "acme")
    return "acme"


@contextmanager
def agents(valkey: Valkey, org: str, answer: Callable[[str, str], None], *sessions: Addressee) -> Iterator[None]:
    """Be a broker with these agents: it reports each state_change, and calls `answer` per message and agent."""
    run_sync(valkey.client, heartbeat(LAYOUT, "b1", {}))
    present = {each.session_id: Presence(each.key_id, each.workflow_id, int(time.time()) - 11000) for each in sessions}
    run_sync(valkey.client, put_presence(LAYOUT, org, "b1", present))
    pubsub = valkey.client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    pubsub.subscribe(LAYOUT.live(org))
    pubsub.get_message(timeout=5)

    def listen() -> None:
        for message in pubsub.listen():
            if message["data"] == b"end":
                return
            change = decode_control_server(parse_live(message["data"]).message)
            if not isinstance(change, StateChange):
                continue
            meant = [each for each in sessions if each.workflow_id in (None, change.workflow_id)]
            run_sync(valkey.client, deliver(LAYOUT, org, change.message_id, "b1", meant))
            for each in meant:
                answer(change.message_id, each.session_id)

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield
    finally:
        valkey.client.publish(LAYOUT.live(org), "end")
        thread.join()
        pubsub.close()


@pytest.fixture
def confirm(valkey: Valkey, org: str) -> Callable[[str, str], None]:
    """Return what an agent that obeys does."""

    def answer(message_id: str, session_id: str) -> None:
        run_sync(valkey.client, acknowledge(LAYOUT, org, message_id, session_id, int(time.time())))

    return answer


def test_a_life_of_a_workflow(shell: Shell, org: str) -> None:
    """Each change has the next version, and status shows the last one with who made it."""
    assert shell("pause", org, "wf", "--reason", "lunch").stdout == "Paused wf of acme (version 1).\n"
    assert shell("resume", org, "wf").stdout == "Resumed wf of acme (version 2).\n"
    killed = shell.json_line("kill", org, "wf", "--reason", "runaway")
    assert killed == {
        "type": "change", "status": "applied", "organization_id": "acme", "workflow_id": "wf", "state": "Killed",
        "version": 3, "previous": "Normal", "message_id": killed["message_id"],
    }  # fmt: skip
    (workflow,) = (line for line in shell.json("status", org) if line["type"] == "workflow")
    assert (workflow["state"], workflow["version"], workflow["reason"]) == ("Killed", 3, "runaway")
    assert workflow["actor"].startswith("cli:")
    assert workflow["message_id"] == killed["message_id"]
    shown = shell("status", org).stdout
    assert "wf        Killed  3" in shown
    assert "No agent of acme is connected." in shown


def test_killed_is_final(shell: Shell, org: str) -> None:
    """Nothing leaves Killed without --force, and the refusal says so; killing again is possible."""
    shell("kill", org, "wf")
    for command in ("pause", "resume"):
        refused = shell(command, org, "wf", status=1)
        assert refused.stdout == ""
        assert "is Killed, and Killed is terminal" in refused.stderr
        assert "--force" in refused.stderr
        assert shell.json_line(command, org, "wf", status=1)["status"] == "terminal"
    assert "version 2" in shell("kill", org, "wf").stdout
    assert "Resumed" in shell("resume", org, "wf", "--force").stdout


def test_an_unknown_organization(shell: Shell) -> None:
    """A slip in the name of the organization must not look like a kill."""
    refused = shell("kill", "acmee", "wf", status=1)
    assert refused.stdout == ""
    assert "acmee has no API key" in refused.stderr


def test_all(shell: Shell, org: str, valkey: Valkey, confirm: Callable[[str, str], None]) -> None:
    """--all means every workflow that is known or has an agent; what is Killed stays, unless forced."""
    shell("pause", org, "a")
    shell("kill", org, "b")
    with agents(valkey, org, confirm, Addressee("s1", "k1", "c")):
        assert shell("pause", org, "--all").stdout == "Paused c of acme (version 1).\n"
        assert shell("resume", org, "--all").stdout.count("Resumed") == 2
        killed = shell("kill", org, "--all").stdout
        assert killed.count("Killed") == 2
        assert "Killed a of" in killed
        assert "Killed c of" in killed
    run_sync(valkey.client, remove_presence(LAYOUT, org, "b1"))
    assert "Nothing to kill" in shell("kill", org, "--all").stderr
    assert shell("resume", org, "--all", "--force").stdout.count("Resumed") == 3


def test_all_repeats_what_an_agent_may_not_have_heard(shell: Shell, org: str, valkey: Valkey) -> None:
    """Who stops everything again sees whether the agents stopped this time; workflows without an agent are left."""
    shell("kill", org, "idle")
    with agents(valkey, org, lambda message_id, session_id: None, Addressee("s1", "k1", "wf")):
        for version in (1, 2):
            change, summary = shell.json("kill", org, "--all", "--wait", "0.3", status=1)
            assert (change["workflow_id"], change["version"]) == ("wf", version)
            assert [each["session_id"] for each in summary["unconfirmed"]] == ["s1"]
        assert "Nothing to pause" in shell("pause", org, "--all").stderr
        assert shell("resume", org, "--all", "--force").stdout.count("Resumed") == 2
        assert "Nothing to resume" in shell("resume", org, "--all").stderr


def test_all_names_the_agents_of_which_nobody_knows_what_they_run(
    shell: Shell, org: str, valkey: Valkey, confirm: Callable[[str, str], None]
) -> None:
    """A kill that may have left something running is no success, though all that has a name was killed."""
    with agents(valkey, org, confirm, Addressee("s1", "k1"), Addressee("s2", "k2", "wf")):
        refused = shell("kill", org, "--all", "--wait", "10", status=1)
        assert "Killed wf of" in refused.stdout
        assert "2 of 2 agents confirmed" in refused.stdout
        assert "1 connected agent of acme" in refused.stderr
        assert "  agent s1 (key k1, broker b1)\n" in refused.stderr
        assert "signalbox kill acme WORKFLOW" in refused.stderr
        assert "s2" not in refused.stderr


def test_all_with_nothing_that_has_a_name(
    shell: Shell, org: str, valkey: Valkey, confirm: Callable[[str, str], None]
) -> None:
    """Programs too hear of agents that run on; what is killed already is told to them again, as they may run it."""
    with agents(valkey, org, confirm, Addressee("s1", "k1")):
        unbound = {
            "type": "unbound",
            "organization_id": org,
            "agents": [{"session_id": "s1", "key_id": "k1", "broker_id": "b1"}],
        }
        assert shell.json("kill", org, "--all", status=1) == [unbound]
        shell("pause", org, "b")
        shell("kill", org, "a")
        *changes, last = shell.json("kill", org, "--all", status=1)
        assert [(line["workflow_id"], line["previous"]) for line in changes] == [("b", "Paused"), ("a", "Killed")]
        assert last == unbound


def test_all_are_told_before_any_is_waited_for(shell: Shell, org: str, valkey: Valkey) -> None:
    """An agent that does not answer does not keep the others from being killed at once."""
    silent = (Addressee("s1", "k1", "a"), Addressee("s2", "k2", "b"))
    with agents(valkey, org, lambda message_id, session_id: None, *silent):
        lines = shell.json("kill", org, "--all", "--wait", "0.3", status=1)
    assert [line["type"] for line in lines] == ["change", "change", "summary", "summary"]
    told, summed = ([(each["workflow_id"], each["message_id"]) for each in half] for half in (lines[:2], lines[2:]))
    assert told == summed


def test_every_agent_confirms(shell: Shell, org: str, valkey: Valkey, confirm: Callable[[str, str], None]) -> None:
    """Receipts are shown one by one and summed up; agents of other workflows are not asked."""
    everybody = (Addressee("s1", "k1", "wf"), Addressee("s2", "k2", None), Addressee("s3", "k3", "other"))
    with agents(valkey, org, confirm, *everybody):
        lines = shell("kill", org, "wf", "--wait", "10").stdout.splitlines()
        assert lines[0] == "Killed wf of acme (version 1)."
        assert lines[1].startswith("  agent s1 (key k1 of wf, broker b1) confirmed after ")
        assert lines[2].startswith("  agent s2 (key k2, broker b1) confirmed after ")
        assert lines[3].startswith("2 of 2 agents confirmed, the slowest after ")
        change, first, second, summary = shell.json("kill", org, "wf", "--wait", "10")
        assert change["type"] == "change"
        assert {first["session_id"], second["session_id"]} == {"s1", "s2"}
        assert first["status"] == "confirmed"
        assert first["message_id"] == change["message_id"]
        assert (summary["agents"], summary["confirmed"], summary["unconfirmed"]) == (2, 2, [])


def test_an_agent_that_does_not_confirm_is_named(shell: Shell, org: str, valkey: Valkey) -> None:
    """Who did not answer, never answered or went away is said, with the diagnosis, and the exit status is 1."""

    def answer(message_id: str, session_id: str) -> None:
        if session_id == "s2":
            run_sync(valkey.client, mark(LAYOUT, org, message_id, "s2", Delivery.UNCONFIRMED, "wrong secret"))
        if session_id == "s3":
            run_sync(valkey.client, mark(LAYOUT, org, message_id, "s3", Delivery.GONE))

    with agents(valkey, org, answer, *(Addressee(name, "k", "wf") for name in ("s1", "s2", "s3"))):
        shown = shell("kill", org, "wf", "--wait", "0.3", status=1).stdout
        assert "0 of 3 agents confirmed.\n" in shown
        assert "not confirmed: agent s1 (key k of wf, broker b1), has not answered yet\n" in shown
        assert "not confirmed: agent s2 (key k of wf, broker b1), never answered: wrong secret\n" in shown
        assert "not confirmed: agent s3 (key k of wf, broker b1), disconnected before it answered\n" in shown
        summary = shell.json("kill", org, "wf", "--wait", "0.3", status=1)[-1]
        assert len(summary["unconfirmed"]) == 3


def test_a_broker_that_does_not_report_is_unknown(
    shell: Shell, org: str, valkey: Valkey, confirm: Callable[[str, str], None]
) -> None:
    """Agents behind a broker from which nothing is heard are not taken for confirmed."""
    with agents(valkey, org, confirm, Addressee("s1", "k", "wf")):
        run_sync(valkey.client, heartbeat(LAYOUT, "b2", {}))
        run_sync(valkey.client, put_presence(LAYOUT, org, "b2", {"s9": Presence("k", None, 1)}))
        summary = shell.json("kill", org, "wf", "--wait", "0.3", status=1)[-1]
        assert (summary["confirmed"], summary["unknown_brokers"]) == (1, ["b2"])
        assert "unknown: broker b2" in shell("kill", org, "wf", "--wait", "0.3", status=1).stdout


def test_a_broker_that_has_not_reported_when_another_change_comes_is_unknown(
    shell: Shell, org: str, valkey: Valkey, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pause that was taken back before a broker reported is not taken for heard."""
    run_sync(valkey.client, heartbeat(LAYOUT, "b1", {}))
    run_sync(valkey.client, put_presence(LAYOUT, org, "b1", {"s1": Presence("k", "wf", 1)}))
    with closing(Target(load(shell.config), dev=False)) as target:
        paused = target.publisher.pause(org, "wf")
        resumed = target.publisher.resume(org, "wf")
        assert not wait_for_receipts(target, org, "wf", paused, time.monotonic() + 10, as_json=True)
    summary = json.loads(capsys.readouterr().out)
    assert (summary["superseded_by"], summary["unknown_brokers"]) == (resumed.message_id, ["b1"])


def test_a_receipt_that_is_lost_confirms_nothing(
    shell: Shell, org: str, valkey: Valkey, capsys: pytest.CaptureFixture[str]
) -> None:
    """A store that has forgotten the receipt, as after a failover, knows nothing of agents: that is no success."""
    with closing(Target(load(shell.config), dev=False)) as target:
        killed = target.publisher.kill(org, "wf")
        valkey.client.delete(LAYOUT.receipts(org, killed.message_id))
        assert not wait_for_receipts(target, org, "wf", killed, time.monotonic() + 10, as_json=False)
        assert not wait_for_receipts(target, org, "wf", killed, time.monotonic() + 10, as_json=True)
    sentence, summary = capsys.readouterr().out.splitlines()
    assert sentence == "The store has lost the receipt: who confirmed is not known."
    assert json.loads(summary)["lost"]


def test_no_agent_is_connected(shell: Shell, org: str) -> None:
    """Then there is nothing to wait for, which is said, and is no failure."""
    assert "No agent is connected" in shell("kill", org, "wf", "--wait", "60").stdout
    assert "no receipts to wait for" in shell("resume", org, "wf", "--force", "--wait", "60").stderr


def test_status_shows_agents_and_troubles(
    shell: Shell, org: str, valkey: Valkey, confirm: Callable[[str, str], None]
) -> None:
    """Who is connected where and since when; a log that was cut, and a missing broker, are said."""
    assert "No broker is running" in shell("status", org).stderr
    valkey.client.hset(LAYOUT.meta(org), mapping={"capped": 3, "capped_at": int(time.time() * 1000)})
    with agents(valkey, org, confirm, Addressee("s1", "k1", "wf")):
        result = shell("status", org)
        assert "s1     k1   wf        b1      3h ago" in result.stdout
        assert "cut 3 entries" in result.stderr
        lines = {line["type"]: line for line in shell.json("status", org)}
        assert lines["agent"]["session_id"] == "s1"
        assert lines["broker"]["broker_id"] == "b1"
        assert lines["log"]["capped"] == 3


def test_status_of_an_organization_that_nobody_knows(shell: Shell, org: str) -> None:
    """A slip in its name is said, not that all is Normal and nothing more."""
    assert "nobody has no API key either: is the name right?" in shell("status", "nobody").stderr
    assert "is the name right?" not in shell("status", org).stderr


def test_revoking_names_the_agents_that_are_cut_off(
    shell: Shell, org: str, valkey: Valkey, confirm: Callable[[str, str], None]
) -> None:
    """Who revokes a key hears which agents run on out of reach."""
    key_id = shell.json_line("keys", "add", "--org", org, "--workflow", "wf")["key_id"]
    with agents(valkey, org, confirm, Addressee("s1", key_id, "wf"), Addressee("s2", "other", "wf")):
        result = shell("keys", "revoke", key_id)
        assert "1 agent of acme can no longer be reached" in result.stderr
        assert "s1" in result.stderr
        assert "s2" not in result.stderr
        assert "1 connected agent cut off" in result.stdout


def test_a_key_is_revoked_though_nobody_reads_the_warning(
    shell: Shell, org: str, valkey: Valkey, confirm: Callable[[str, str], None]
) -> None:
    """A pipe into `head` that has seen enough does not leave a key in force."""
    key_id = shell.json_line("keys", "add", "--org", org, "--workflow", "wf")["key_id"]
    command = [sys.executable, "-m", "broker", "keys", "revoke", key_id, "--config", str(shell.config)]
    with agents(valkey, org, confirm, Addressee("s1", key_id, "wf")):
        reader, writer = os.pipe()
        os.close(reader)
        try:
            subprocess.run(command, stdout=writer, stderr=writer)
        finally:
            os.close(writer)
    assert {key["key_id"]: key["status"] for key in shell.json("keys", "list")}[key_id] == "revoked"


@pytest.mark.parametrize("obeys", [True, False])
def test_revoke_with_kill(shell: Shell, org: str, valkey: Valkey, obeys: bool) -> None:
    """--kill kills the key's workflow first, and the key is revoked only when its agents have confirmed."""
    key_id = shell.json_line("keys", "add", "--org", org, "--workflow", "wf")["key_id"]

    def answer(message_id: str, session_id: str) -> None:
        if obeys:
            run_sync(valkey.client, acknowledge(LAYOUT, org, message_id, session_id, int(time.time())))
        else:
            run_sync(valkey.client, mark(LAYOUT, org, message_id, session_id, Delivery.UNCONFIRMED))

    with agents(valkey, org, answer, Addressee("s1", key_id, "wf")):
        result = shell("keys", "revoke", key_id, "--kill", status=0 if obeys else 1)
    assert "Killed wf of acme" in result.stdout
    status = {key["key_id"]: key["status"] for key in shell.json("keys", "list")}[key_id]
    assert status == ("revoked" if obeys else "active")


def test_revoke_with_kill_of_a_key_for_everything(shell: Shell, org: str) -> None:
    """What runs with an unbound key is not known, so that the operator has to say what to kill."""
    key_id = shell.json_line("keys", "add", "--org", org)["key_id"]
    assert "is bound to no workflow" in shell("keys", "revoke", key_id, "--kill", status=1).stderr


@pytest.mark.parametrize(
    "value", ["", "1", "1 Killed {", "1 Killed {}", "1 Killed 5", '1 Killed {"workflow_id": 5, "state": 5}']
)
def test_a_damaged_workflow_is_named(shell: Shell, org: str, valkey: Valkey, value: str) -> None:
    """What somebody has written over the state of a workflow cannot be shown, and the sentence says of which."""
    shell("pause", org, "good")
    valkey.client.hset(LAYOUT.workflows(org), "evil", value)
    for command in (("status", org), ("kill", org, "--all")):
        assert "what is stored of workflow evil is damaged." in shell(*command, status=1).stderr
    if value.startswith("1 Killed "):
        assert shell.json_line("kill", org, "evil")["version"] == 2
        assert "evil" in shell("status", org).stdout
