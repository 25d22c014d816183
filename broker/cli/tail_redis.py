"""Listening straight on Redis: no broker is needed, and nothing that passes is hidden."""

import time

from redis.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from broker.cli.tailing import Printer
from broker.cli.target import Target
from broker.store.layout import Layout
from broker.store.log import parse_live

_PATTERN = frozenset("*?[")
_RETRY = 0.5
_POLL = 5.0


def tail_redis(target: Target, channels: tuple[str, ...], printer: Printer) -> None:
    """Print what is published on the channels, until interrupted; comes back after breaks of the connection.

    Raises Failure when Redis cannot be reached at first, or refuses.
    """
    connected_before = False
    while True:
        pubsub = target.client.pubsub()  # type: ignore[no-untyped-call]  # of redis-py
        try:
            _subscribe(pubsub, target.layout, channels)
            pending = len(channels)
            while True:
                message = pubsub.get_message(timeout=_POLL)
                if message is None:
                    continue
                if message["type"].endswith("subscribe"):
                    pending -= 1
                    if not pending:
                        printer.remark("listening again" if connected_before else "listening; ctrl-C ends it")
                        connected_before = True
                else:
                    _show(target.layout, message["channel"], message["data"], printer)
        except (RedisConnectionError, RedisTimeoutError) as error:
            if not connected_before:
                raise target.unreachable(error) from None
            printer.remark("the connection to Redis broke: what is published now is not seen")
            time.sleep(_RETRY)
        except RedisError as error:
            raise target.unreachable(error) from None
        finally:
            pubsub.close()


def _subscribe(pubsub: PubSub, layout: Layout, channels: tuple[str, ...]) -> None:
    for channel in channels:
        namespace, _, name = channel.partition(":")
        if namespace == "control":
            pubsub.subscribe(layout.live(name))
        elif _PATTERN & set(channel):
            pubsub.psubscribe(layout.event(channel))
        else:
            pubsub.subscribe(layout.event(channel))


def _show(layout: Layout, name: bytes, payload: bytes, printer: Printer) -> None:
    redis_channel = name.decode("utf-8", "replace")
    organization = layout.organization_of_live(redis_channel)
    if organization is None:
        printer.message(layout.event_of(redis_channel) or redis_channel, payload)
        return
    try:
        printer.message(f"control:{organization}", parse_live(payload).message)
    except ValueError:
        printer.remark(f"something that is no control message was published on {redis_channel}")
