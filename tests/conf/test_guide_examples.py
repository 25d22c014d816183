"""The examples of docs/operating.md, run as they are printed."""

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from broker.store.drive import run_sync
from broker.store.keys import add_key
from tests.admin.site import TOKEN, running_site
from tests.conftest import Valkey
from tests.support import WsClient

GUIDE = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
EXAMPLES: list[tuple[str, str]] = re.findall(r"```sh\n(.*?)```\n\n```json\n(.*?)```", GUIDE, re.DOTALL)
TALLIES = {"brokers", "dropped", "refused", "closed"}
"""Objects whose keys are names of things, not of fields."""


def alike(value: Any, printed: Any) -> bool:
    """Whether two answers have the same fields, all the way down, with values of the same types; null fits any."""
    if value is None or printed is None:
        return True
    if isinstance(value, dict) and isinstance(printed, dict):
        return value.keys() == printed.keys() and all(
            name in TALLIES or alike(value[name], printed[name]) for name in value
        )
    if isinstance(value, list) and isinstance(printed, list):
        return all(alike(one, printed[0]) for one in value if printed)
    return type(value) is type(printed)


@pytest.fixture
def curl() -> None:
    """Skips the test where there is no curl."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")


async def test_the_examples(curl: None, valkey: Valkey, tmp_path: Path) -> None:
    """Each command works as printed, one after the other, and answers in the shape that is printed below it."""
    token_file = tmp_path / "admin.token"
    token_file.write_text(f"alice {TOKEN}\n")
    token_file.chmod(0o600)
    assert len(EXAMPLES) == 8
    async with running_site(valkey, token_file) as site:
        key = run_sync(valkey.client, add_key(site.broker.layout, "acme", workflow_id="billing-agent"))
        agent = await WsClient.connect(site.public, "/ws/control/acme", {"X-API-Key": key.api_key})
        names = {"ADMIN": f"http://127.0.0.1:{site.admin[1]}", "TOKEN": TOKEN}
        async with agent:
            await agent.receive_type("initial_state")
            for command, printed in EXAMPLES:
                answer = await _run(command, names)
                if "receipts" in answer:
                    names["RECEIPTS"] = answer["receipts"]
                    told = await agent.receive_type("state_change")
                    await agent.send_json(type="ack", message_id=told["message_id"], received_at=int(time.time()))
                if "api_key" in answer:
                    names["KEY_ID"] = answer["key_id"]
                assert alike(answer, json.loads(printed)), (command, answer)


async def _run(command: str, names: dict[str, str]) -> Any:
    environ = {"PATH": "/usr/bin:/bin", **names}
    done = await trio.run_process(["/bin/sh", "-ec", command], capture_stdout=True, capture_stderr=True, env=environ)
    return json.loads(done.stdout)
