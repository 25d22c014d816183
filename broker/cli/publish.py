"""`signalbox publish`: one event, to everybody who is subscribed to a channel."""

import json
import sys
import time
from decimal import Decimal
from typing import Any

import click

from broker.cli.output import counted, hint, print_json
from broker.cli.target import Target, json_option, target_options
from broker.cli.types import Channel, Text
from broker.publisher import encode_event
from protocol.channels import namespace_of


@click.command()
@click.argument("channel", type=Channel())
@click.argument("event_type", type=Text(), metavar="TYPE")
@click.argument("data", metavar="[JSON]", required=False)
@json_option
@target_options
def publish(target: Target, channel: str, event_type: str, data: str | None, as_json: bool) -> None:
    """Publish an event with JSON as its data; - reads the data from stdin.

    For example: signalbox publish workflow:demo node_status '{"node_id": "a1", "status": "success"}'
    """
    value = _parsed(_stdin() if data == "-" else data)
    try:
        encode_event(channel, event_type, value, time.time(), target.config.limits.max_publication_bytes)
    except (ValueError, TypeError) as error:
        raise click.UsageError(f"{error}.") from None
    with target.talking():
        receivers = target.publisher.broadcast(channel, event_type, value)
    if as_json:
        print_json({"channel": channel, "type": event_type, "receivers": receivers})
    else:
        click.echo(f"Published {event_type} on {channel}: heard by {counted(receivers, 'broker')}.")
    if namespace_of(channel) not in target.config.events.namespaces:
        hint(f"No client can subscribe to it: {namespace_of(channel)} is not among events.namespaces.")
    elif not receivers:
        hint("No broker has a client on this channel now, so that nobody will ever see this event.")


def _stdin() -> bytes:
    """Return all of stdin; nothing, if it is closed."""
    return sys.stdin.buffer.read() if sys.stdin is not None else b""


def _parsed(text: str | bytes | None) -> Any:
    """Return the data; fractions keep all their digits."""
    if text is None:
        return None
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"is not JSON: {error}", param_hint="JSON") from None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")
