"""API keys over the operator API."""

import time

import pytest
import trio

from broker.admin import api_keys
from broker.store.drive import run_sync
from broker.store.key_record import hash_of
from broker.store.keys import revoke_key
from broker.store.layout import Layout
from tests.admin.site import ORG, Site, running_site
from tests.conftest import Valkey
from tests.support import Rejected

KEYS = f"/api/v1/orgs/{ORG}/api-keys"


async def test_a_new_key_works(site: Site) -> None:
    """A key that was made here opens a control session, and its secrets are shown this once."""
    made = await site.ask("POST", KEYS, {"workflow_id": "wf", "channels": ["workflow:wf"], "name": "ci"})
    assert made.status == 201
    key = made.json
    assert made.headers["location"] == f"{KEYS}/{key['key_id']}"
    assert (key["organization_id"], key["workflow_id"], key["channels"]) == (ORG, "wf", ["workflow:wf"])
    async with await site.agent(key["api_key"]) as agent:
        assert (await agent.receive_type("initial_state"))["workflows"][0]["workflow_id"] == "wf"
    listed = await site.ask("GET", KEYS)
    assert [each["key_id"] for each in listed.json["keys"]] == [key["key_id"]]
    assert key["api_key"] not in listed.body.decode()
    assert key["secret_key"] not in listed.body.decode()


async def test_expiry(site: Site) -> None:
    """A key can expire at a time or after one."""
    at = int(time.time()) + 100
    assert (await site.ask("POST", KEYS, {"expires_at": at})).json["expires_at"] == at
    assert (await site.ask("POST", KEYS, {"expires_in": 100})).json["expires_at"] in range(at - 5, at + 20)
    assert (await site.ask("POST", KEYS, {"signature": "optional"})).json["signature"] == "optional"


@pytest.mark.parametrize(
    "body",
    [
        {"expires_at": 5},
        {"expires_at": "tomorrow"},
        {"expires_at": 10**10, "expires_in": 5},
        {"expires_at": True},
        {"expires_in": -1},
        {"signature": "never"},
        {"channels": "workflow:*"},
        {"channels": [5]},
        {"channels": [""]},
        {"workflow_id": "a b"},
        {"workflow": "wf"},
    ],
)
async def test_keys_that_cannot_be(site: Site, body: object) -> None:
    """What a key cannot be is refused, and no key is made."""
    assert (await site.ask("POST", KEYS, body)).status == 400
    assert (await site.ask("GET", KEYS)).json["keys"] == []


async def test_rotation(site: Site) -> None:
    """A rotation answers with the new secret and tells the agents; the open session goes on."""
    made = site.key("wf")
    async with await site.agent(made.api_key) as agent:
        await agent.receive_type("initial_state")
        rotated = await site.ask("POST", f"{KEYS}/{made.record.key_id}/rotate")
        assert rotated.status == 200
        assert rotated.json["version"] == 2
        assert rotated.json["secret_key"] not in (made.record.secret_key, None)
        assert rotated.json["previous_until"] > time.time()
        told = await agent.receive_type("key_rotated")
        assert (told["key_id"], told["new_version"]) == (made.record.key_id, 2)
    now = await site.ask("POST", f"{KEYS}/{made.record.key_id}/rotate", {"now": True})
    assert now.json["previous_until"] <= time.time()


async def test_revoking(site: Site) -> None:
    """A revoked key's agent is told, named in the answer and cut off; the key opens nothing any more."""
    made = site.key("wf")
    async with await site.agent(made.api_key) as agent:
        await agent.receive_type("initial_state")
        await site.wait_present(1)
        revoked = await site.ask("DELETE", f"{KEYS}/{made.record.key_id}")
        assert revoked.status == 200
        assert revoked.json["status"] == "revoked"
        assert [each["workflow_id"] for each in revoked.json["agents"]] == ["wf"]
        assert (await agent.receive_type("key_rotated"))["key_id"] == made.record.key_id
        assert (await agent.wait_closed()).code == 4401
    with pytest.raises(Rejected) as refused:
        await site.agent(made.api_key)
    assert refused.value.error_code == "api_key_revoked"
    again = await site.ask("POST", f"{KEYS}/{made.record.key_id}/rotate")
    assert (again.status, again.error_code) == (409, "api_key_revoked")
    assert (await site.ask("DELETE", f"{KEYS}/{made.record.key_id}")).status == 200


async def test_revoked_while_an_agent_waits_for_a_place(valkey: Valkey) -> None:
    """The places that a revocation frees let no agent in that was waiting for one with the same key."""
    async with running_site(valkey, None, max_connections_per_key=1) as site:
        made = site.key("wf")
        slots = site.broker.door.state.slots
        async with await site.agent(made.api_key) as agent, trio.open_nursery() as nursery:
            await agent.receive_type("initial_state")
            outcomes: list[str] = []

            @nursery.start_soon
            async def wait() -> None:
                try:
                    async with await site.agent(made.api_key) as second:
                        outcomes.append(str(await second.receive()))
                except Rejected as error:
                    outcomes.append(error.error_code)

            while not slots.waiting:
                await trio.lowlevel.checkpoint()
            run_sync(valkey.client, revoke_key(site.broker.layout, made.record.key_id))
            assert (await agent.wait_closed()).code == 4401
        assert outcomes == ["api_key_revoked"]
        assert slots.taken == 0


async def test_killing_before_revoking(site: Site) -> None:
    """With kill=true the agent hears its kill before it is cut off, and the key lives on if it does not confirm."""
    made, free = site.key("wf"), site.key()
    async with await site.agent(made.api_key) as agent:
        await agent.receive_type("initial_state")
        await site.wait_present(1)
        answers: list[int] = []
        async with site.asking("DELETE", f"{KEYS}/{made.record.key_id}?kill=true", answers):
            told = await agent.receive_type("state_change")
            assert told["state"] == "Killed"
            await agent.send_json(type="ack", message_id=told["message_id"], received_at=int(time.time()))
            assert (await agent.wait_closed()).code == 4401
    assert answers == [200]
    unbound = await site.ask("DELETE", f"{KEYS}/{free.record.key_id}?kill=true")
    assert unbound.status == 409


@pytest.mark.parametrize("query", ["kill=1", "kill=True", "kill=", "kil=true", "kill=true&wait=5"])
async def test_a_kill_that_is_not_understood(site: Site, query: str) -> None:
    """A query that is not understood revokes nothing: perhaps it asks for the kill that has to come first."""
    made = site.key("wf")
    refused = await site.ask("DELETE", f"{KEYS}/{made.record.key_id}?{query}")
    assert (refused.status, refused.error_code) == (400, "bad_request")
    (listed,) = (await site.ask("GET", KEYS)).json["keys"]
    assert listed["status"] == "active"
    assert (await site.ask("DELETE", f"{KEYS}/{made.record.key_id}?kill=false")).status == 200


async def test_a_damaged_key_is_named(site: Site, valkey: Valkey) -> None:
    """What somebody has changed in Redis by hand is said, whatever is asked about it."""
    made = (await site.ask("POST", KEYS, {})).json
    valkey.client.hdel(Layout().key(hash_of(made["api_key"])), "status")
    for method, path in (("GET", KEYS), ("DELETE", f"{KEYS}/{made['key_id']}")):
        refused = await site.ask(method, path)
        assert refused.status == 503
        assert f"{made['key_id']} is damaged: status is missing" in refused.json["error"]["message"]


async def test_keys_of_others(site: Site) -> None:
    """A key is reached by its own organization's path only."""
    made = site.key()
    for method, path in (("DELETE", ""), ("POST", "/rotate")):
        reply = await site.ask(method, f"/api/v1/orgs/umbrella/api-keys/{made.record.key_id}{path}")
        assert (reply.status, reply.error_code) == (404, "not_found")


async def test_an_agent_that_does_not_confirm_keeps_its_key(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """With kill=true a key is not revoked while an agent of it is deaf: nothing else could still reach that one."""
    monkeypatch.setattr(api_keys, "RECEIPTS", 0.2)
    made = site.key("wf")
    async with await site.agent(made.api_key) as agent:
        await agent.receive_type("initial_state")
        await site.wait_present(1)
        refused = await site.ask("DELETE", f"{KEYS}/{made.record.key_id}?kill=true")
        assert (refused.status, refused.error_code) == (409, "unavailable")
        assert (await agent.receive_type("state_change"))["state"] == "Killed"
    [listed] = (await site.ask("GET", KEYS)).json["keys"]
    assert listed["status"] == "active"


async def test_a_receipt_that_is_lost_confirms_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that forgets the receipt while it is waited for, as in a failover, gets no key revoked."""
    monkeypatch.setattr(api_keys, "RECEIPTS", 5.0)
    made = site.key("wf")
    async with await site.agent(made.api_key) as agent:
        await agent.receive_type("initial_state")
        await site.wait_present(1)
        answers: list[int] = []
        async with site.asking("DELETE", f"{KEYS}/{made.record.key_id}?kill=true", answers):
            told = await agent.receive_type("state_change")
            site.valkey.client.delete(site.broker.layout.receipts(ORG, told["message_id"]))
    assert answers == [409]


async def test_only_the_agents_of_a_key_are_named(site: Site) -> None:
    """Who is cut off by a revocation is told apart from who stays; who revoked it is written down."""
    made, other = site.key("wf"), site.key("wf")
    async with await site.agent(made.api_key) as agent, await site.agent(other.api_key) as stays:
        for each in (agent, stays):
            await each.receive_type("initial_state")
        await site.wait_present(2)
        revoked = await site.ask("DELETE", f"{KEYS}/{made.record.key_id}")
        assert len(revoked.json["agents"]) == 1
    assert site.valkey.client.hget(site.broker.layout.key(made.record.hash), "revoked_by") == b"api:alice"


@pytest.mark.parametrize(("method", "path"), [("POST", "/rotate"), ("DELETE", "")])
async def test_a_misspelt_field_changes_no_key(site: Site, method: str, path: str) -> None:
    """What is not understood must not be done by halves: a rotation that was meant to be at once, say."""
    made = site.key()
    reply = await site.ask(method, f"{KEYS}/{made.record.key_id}{path}", {"immediately": True})
    assert (reply.status, reply.error_code) == (400, "bad_request")
    [listed] = (await site.ask("GET", KEYS)).json["keys"]
    assert (listed["status"], listed["version"]) == ("active", 1)
