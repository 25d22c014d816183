"""How one message of a channel is printed, wherever it came from."""

import json
import time
from datetime import datetime
from typing import Any

import click

from broker.cli.output import print_json, printable
from protocol.errors import ProtocolError
from protocol.strict_json import loads

_ENVELOPE = frozenset({"type", "channel", "timestamp", "organization_id", "message_id", "api_key", "offset"})
_SIGNING = ("timestamp", "api_key", "signed_payload", "signature")


class Printer:
    """Prints messages as lines: `12:00:00.123  workflow:demo  node_status  {…}`, or as JSON."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def message(self, channel: str, payload: bytes | str) -> None:
        """Print one message that was published on `channel`; what no broker would take for one is shown as it is."""
        try:
            body = loads(payload)
        except ProtocolError:
            body = None
        if not isinstance(body, dict):
            text = payload if isinstance(payload, str) else payload.decode("utf-8", "replace")
            body = {"channel": channel, "payload": text}
        if "signed_payload" in body:
            body = {name: value for name, value in body.items() if name not in _SIGNING}
        if self._as_json:
            print_json(body)
        else:
            now = datetime.fromtimestamp(time.time()).astimezone()
            stamp = f"{now:%H:%M:%S}.{now.microsecond // 1000:03d}"
            kind = printable(str(body.get("type", "?")))
            click.echo(
                f"{click.style(stamp, dim=True)}  {printable(channel)}  {click.style(kind, bold=True)}  {_said(body)}"
            )

    def remark(self, text: str) -> None:
        """Say something about the connection on stderr."""
        click.secho(f"# {printable(text)}", err=True, dim=True)


def _said(body: dict[str, Any]) -> str:
    match body.get("type"):
        case "state_change":
            reason = f": {body['reason']}" if body.get("reason") else ""
            return printable(
                f"{body.get('workflow_id')} is {body.get('state')} (version {body.get('version')}){reason}"
            )
        case "initial_state":
            listed = body.get("workflows")
            workflows = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
            return printable(
                ", ".join(f"{item.get('workflow_id')} is {item.get('state')}" for item in workflows) or "nothing"
            )
    rest: Any = {name: value for name, value in body.items() if name not in _ENVELOPE}
    if rest.keys() == {"data"} or rest.keys() == {"payload"}:
        (rest,) = rest.values()
    return printable(json.dumps(rest, ensure_ascii=False)) if rest != {} else ""
