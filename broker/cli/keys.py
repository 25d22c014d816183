"""`signalbox keys`: who may connect, and what they may see."""

import re
import time
from pathlib import Path
from typing import Any

import click

from broker.cli.errors import Failure
from broker.cli.output import counted, hint, moment, print_json, print_table
from broker.cli.revoke import kill_first, live_agents, warn_of
from broker.cli.target import Target, actor, json_option, target_options
from broker.cli.types import Duration, Glob, Id, Text
from broker.store.errors import SealError, StoreError, UnknownKey
from broker.store.key_record import KeyRecord, SignatureRule, shown_of
from broker.store.keys import NewKey, add_key, find_key, list_keys, revoke_key, rotate_key
from broker.store.master_key import open_sealer
from broker.store.sealer import BLINDFOLD
from broker.store.sealing import seal_keys
from protocol.channels import grant_for


@click.group()
def keys() -> None:
    """Make, list, revoke, rotate and seal API keys."""


@keys.command()
@click.option("--org", required=True, type=Id("the organization"), metavar="ORG", help="Whose key it is.")
@click.option("--workflow", type=Id("the workflow"), metavar="WF", help="Bind it to one workflow.")
@click.option(
    "--channel", "channels", type=Glob(), multiple=True, metavar="GLOB", help="Channels it may see; repeatable."
)
@click.option("--expires", type=Duration(), metavar="90d", help="When it stops working.  [default: never]")
@click.option("--name", type=Text(), default="", metavar="TEXT", help="What it is for, in your words.")
@click.option("--signature", type=click.Choice(["required", "optional"]), help="Override control.handshake_signature.")
@json_option
@target_options
def add(
    target: Target,
    org: str,
    workflow: str | None,
    channels: tuple[str, ...],
    expires: float | None,
    name: str,
    signature: SignatureRule | None,
    as_json: bool,
) -> None:
    """Make a key. It and its secret are shown this once and never again."""
    made = target.run(
        add_key(
            target.layout,
            org,
            workflow_id=workflow,
            channels=channels,
            expires_at=None if expires is None else int(time.time() + expires),
            name=name,
            signature=signature,
            sealer=target.sealer,
        )
    )
    if as_json:
        print_json(_new_key_json(made))
    else:
        _show_new_key(made)
    hint(_visible(made.record, target.config.events.namespaces))
    hint("Keep the key and the secret now: they are stored nowhere in this form, and are never shown again.")


def _new_key_json(made: NewKey) -> dict[str, Any]:
    record = made.record
    return {
        "key_id": record.key_id,
        "organization_id": record.organization_id,
        "workflow_id": record.workflow_id,
        "api_key": made.api_key,
        "secret_key": record.secret_key,
        "channels": list(record.channels),
        "expires_at": record.expires_at,
    }


def _show_new_key(made: NewKey) -> None:
    record = made.record
    for label, value in (
        ("key id", record.key_id),
        ("organization", record.organization_id),
        ("workflow", record.workflow_id),
        ("expires", moment(record.expires_at)),
        ("api key", made.api_key),
        ("secret", record.secret_key),
    ):
        if value:
            click.echo(f"{label:<14}{value}")


def _visible(record: KeyRecord, namespaces: tuple[str, ...]) -> str:
    """Say in one sentence which channels a key sees."""
    globs = grant_for(record.channels, record.workflow_id, namespaces).globs
    useless = [glob for glob in globs if not any(_may_match(glob, f"{namespace}:") for namespace in namespaces)]
    if useless:
        return (
            f"No client can ever see what matches {' or '.join(useless)}: "
            f"channels are {', '.join(f'{namespace}:NAME' for namespace in namespaces)}, as events.namespaces has it."
        )
    if not globs:
        return "On the event socket it sees no channel, as it is bound to a workflow; --channel gives it some."
    if not record.channels:
        return f"On the event socket it sees every channel of {', '.join(namespaces)}; --channel narrows that."
    return f"On the event socket it sees the channels that match {' or '.join(globs)}."


def _may_match(glob: str, start: str) -> bool:
    """Tell whether a glob may match something that begins like this and goes on; it looks at its first letters."""
    text = re.split(r"[*?[]", glob, maxsplit=1)[0]
    return (text.startswith(start) and glob != start) or (text != glob and start.startswith(text))


@keys.command("list")
@click.option("--org", type=Id("the organization"), metavar="ORG", help="Only this organization's keys.")
@json_option
@target_options
def list_(target: Target, org: str | None, as_json: bool) -> None:
    """List keys: without the key itself, and without its secret."""
    records = target.run(list_keys(target.layout, org, BLINDFOLD))
    now = time.time()
    if as_json:
        for record in records:
            print_json(shown_of(record, now))
    elif records:
        head = ("KEY", "ORGANIZATION", "WORKFLOW", "CHANNELS", "STATUS", "EXPIRES", "VERSION", "NAME")
        print_table(head, [_row(record, now) for record in records])
    else:
        nothing = "There are no keys yet" if org is None else f"{org} has no keys"
        hint(f"{nothing}; make one with: signalbox keys add --org {org or 'ORG'}")


def _status(record: KeyRecord, now: float) -> str:
    return record.refusal(now) or "active"


def _row(record: KeyRecord, now: float) -> tuple[str, ...]:
    return (
        record.key_id,
        record.organization_id,
        record.workflow_id or "",
        " ".join(record.channels) or ("" if record.workflow_id else "all"),
        _status(record, now),
        moment(record.expires_at),
        str(record.version),
        record.name,
    )


@keys.command()
@click.argument("key_id", type=Id("the key id"))
@click.option("--kill", is_flag=True, help="Kill its workflow first, and revoke once its agents have confirmed.")
@json_option
@target_options
def revoke(target: Target, key_id: str, kill: bool, as_json: bool) -> None:
    """Revoke a key for good, and close its connections.

    An agent that runs with it can then no longer be reached, and so no longer be killed: --kill does that before.
    """
    record = _existing(target, key_id)
    agents = live_agents(target, record)
    if kill:
        kill_first(target, record, as_json)
    try:
        after = target.run(revoke_key(target.layout, key_id, actor=actor(), limits=target.log_limits, sealer=BLINDFOLD))
    except StoreError as error:
        raise _failure(error) from None
    if not kill:
        warn_of(agents, record)  # not before: a warning that nobody reads would leave the key as it is
    if as_json:
        print_json({"type": "revoked", **shown_of(after, time.time()), "agents": len(agents)})
    else:
        click.echo(f"Revoked {key_id}: {counted(len(agents), 'connected agent')} cut off.")


@keys.command()
@click.argument("key_id", type=Id("the key id"))
@click.option("--now", is_flag=True, help="The old secret stops verifying at once, without an overlap.")
@json_option
@target_options
def rotate(target: Target, key_id: str, now: bool, as_json: bool) -> None:
    """Give a key a new secret, shown this once.

    The old one verifies a little longer (control.key_overlap). Sessions that are open go on undisturbed.
    """
    overlap = 0.0 if now else target.config.control.key_overlap
    try:
        record = target.run(
            rotate_key(
                target.layout,
                key_id,
                overlap=overlap,
                actor=actor(),
                limits=target.log_limits,
                sealer=target.sealer,
            )
        )
    except StoreError as error:
        raise _failure(error) from None
    if as_json:
        print_json({**shown_of(record, time.time()), "secret_key": record.secret_key})
    else:
        click.echo(f"{'key id':<14}{record.key_id}\n{'version':<14}{record.version}\n{'secret':<14}{record.secret_key}")
    hint("The old secret verifies no more." if now else f"The old secret verifies for another {overlap:g} s.")


@keys.command()
@click.option(
    "--from",
    "former",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The master key with which they are sealed now.",
)
@json_option
@target_options
def seal(target: Target, former: Path | None, as_json: bool) -> None:
    """Seal all secrets with the master key in redis.master_key_file.

    Those that are stored plainly, and with --from those that are sealed with another master key. Restart the brokers
    afterwards: with the former master key they can no longer read a key.
    """
    try:
        sealer, previous = open_sealer(target.config.redis.master_key_file), open_sealer(former, "--from")
        if not sealer.fingerprint:
            raise Failure("there is no master key.", "Set redis.master_key_file.")
        sealed = target.run(seal_keys(target.layout, sealer, previous))
    except SealError as error:
        raise _failure(error) from None
    if as_json:
        print_json({"type": "sealed", "keys": sealed.keys, "changed": sealed.changed, "dropped": list(sealed.dropped)})
    else:
        click.echo(f"Sealed the secrets of {counted(sealed.changed, 'key')} of {sealed.keys}.")
    for key_id in sealed.dropped:
        hint(f"The secret of {key_id}, which is revoked, could not be read and was dropped.")


def _existing(target: Target, key_id: str) -> KeyRecord:
    record = target.run(find_key(target.layout, key_id, BLINDFOLD))
    if record is None:
        raise _failure(UnknownKey(key_id))
    return record


def _failure(error: StoreError) -> Failure:
    return Failure(f"{error}.", "See: signalbox keys list" if isinstance(error, UnknownKey) else None)
