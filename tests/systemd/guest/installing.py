"""Runs the commands of docs/installing.md, section by section: python3 -m tests.systemd.guest.installing.

It needs nothing but Python's library, for nothing is installed when it begins. What follows a line that begins with
"```sh" is run as it stands; a second word there names a program without which it is skipped, aloud.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

DOCUMENT = Path("docs/installing.md")

LEFTOVERS = ("/opt/signalbox", "/etc/signalbox", "/etc/systemd/system", "/etc/credstore", "/var/lib", "/usr/local/bin")

PROGRAMS = {"nginx": "nginx", "redis": "redis-server"}

AGENT = """
import json, sys, trio
sys.path.insert(0, ".")
from tests.support.ws_client import WsClient
async def main():
    key = sys.argv[1]
    async with await WsClient.connect(("127.0.0.1", 8765), "/ws/control/acme", {"X-API-Key": key}) as client:
        await client.receive_type("initial_state")
        print("an agent is connected", flush=True)
        workflow = None
        while workflow != "checked":  # what was killed before is told first, for its receipt is open
            change = await client.receive_type("state_change")
            workflow = change["workflow_id"]
            assert change["state"] == "Killed", change
            await client.send_json(type="ack", message_id=change["message_id"], received_at=change["updated_at"])
        await trio.sleep(0.5)
trio.run(main)
"""


def sections(text: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Return the heading of each section with its blocks: what a block needs, and its commands."""
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading = part.split("\n", 1)[0]
        blocks = re.findall(r"^```sh ?(\w*)\n(.*?)^```$", part, flags=re.MULTILINE | re.DOTALL)
        if blocks:
            yield heading, blocks


def run(script: str) -> None:
    """Run commands as somebody would type them, and stop at the first that fails."""
    subprocess.run(["bash", "-euo", "pipefail", "-c", script], check=True)


def check_agent() -> None:
    """Let an agent connect to what was installed, and kill it."""
    made = subprocess.run(
        ["signalbox", "keys", "add", "--org", "acme", "--signature", "optional", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    api_key = re.search(r'"api_key": ?"([^"]+)"', made.stdout)
    assert api_key, made.stdout
    with subprocess.Popen(
        ["/opt/signalbox/bin/python", "-c", AGENT, api_key[1]], stdout=subprocess.PIPE, text=True
    ) as agent:
        assert agent.stdout is not None
        print(agent.stdout.readline(), end="", flush=True)
        run("signalbox kill acme checked --reason check --wait 5")
        assert agent.wait(20) == 0


def check_nothing_left() -> None:
    """Look for anything of ours after the uninstall."""
    left = [str(path) for place in LEFTOVERS for path in Path(place).glob("*") if "signalbox" in path.name]
    left += [place for place in LEFTOVERS[:2] if Path(place).exists()]
    assert not left, left
    units = subprocess.run(["systemctl", "list-units", "--all", "signalbox*"], capture_output=True, text=True).stdout
    assert "0 loaded units" in units, units


def main() -> int:
    """Go through the document."""
    for heading, blocks in sections(DOCUMENT.read_text()):
        began = time.monotonic()
        script = ""
        for need, commands in blocks:
            if need and shutil.which(PROGRAMS[need]) is None:
                print(f"SKIPPED  a part of {heading}: {PROGRAMS[need]} is not on this machine", flush=True)
            else:
                script += commands
        try:
            run(script)
            if heading in ("A first key", "Upgrading"):
                environment = Path("/etc/credstore/signalbox.redis.url")
                if environment.exists():
                    os.environ["SIGNALBOX_REDIS__URL"] = environment.read_text()
                check_agent()
        except (subprocess.CalledProcessError, AssertionError) as error:
            print(f"\nFAILED   {heading}: {error}", flush=True)
            subprocess.run(["journalctl", "-q", "-n", "40", "-o", "cat", "--no-pager"])
            return 1
        print(f"\nok       {heading} ({time.monotonic() - began:.1f} s)", flush=True)
    check_nothing_left()
    print("ok       nothing is left", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
