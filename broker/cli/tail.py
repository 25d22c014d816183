"""`signalbox tail`: what is published, as it is published."""

from pathlib import Path

import click

from broker.cli.tailing import Printer
from broker.cli.target import Target, broker_options, config_options, json_option, read_config
from broker.cli.types import Channel, Credential


@click.command()
@click.argument("channels", type=Channel(), nargs=-1, required=True, metavar="CHANNEL...")
@broker_options("Listen through this broker, as http://HOST:PORT or wss://HOST.", "The API key to connect with.")
@click.option(
    "--secret",
    type=Credential(),
    metavar="HEX",
    envvar="SIGNALBOX_SECRET",
    show_envvar=True,
    help="The key's secret, to sign with: for control:ORG, unless the broker admits unsigned sessions.",
)
@config_options
@json_option
def tail(
    channels: tuple[str, ...],
    url: str | None,
    token: str | None,
    secret: str | None,
    config_path: Path | None,
    dev: bool,
    as_json: bool,
) -> None:
    """Print the events of channels as they are published, until ctrl-C.

    Without --url they come straight from Redis, and any of the channels may be a pattern such as 'workflow:*'. With
    --url and --token they come through a broker, as a browser gets them.

    control:ORG shows what the agents of an organization are told; through a broker this is a session like an agent's,
    which acknowledges what it receives.
    """
    printer = Printer(as_json)
    try:
        if url is None:
            from broker.cli.tail_redis import tail_redis

            tail_redis(Target(read_config(config_path, dev), dev), channels, printer)
        else:
            if token is None:
                raise click.UsageError("--url needs --token, or SIGNALBOX_TOKEN in the environment.")
            from broker.cli.tail_socket import tail_socket

            tail_socket(url, token, secret, channels, printer)
    except KeyboardInterrupt:
        return
