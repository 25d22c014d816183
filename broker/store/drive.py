"""Drivers: they carry an operation's requests to Redis, over redis-py or over any asynchronous call."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import redis
from redis.exceptions import NoScriptError, RedisError

from broker.store.request import Command, Operation, Pause, ScriptCall

T = TypeVar("T")

Call = Callable[..., Awaitable[object]]
"""An asynchronous Redis: takes the words of one command, returns its reply, raises what an error reply means."""


def run_sync(client: redis.Redis, operation: Operation[T]) -> T:
    """Run an operation to its end over a redis-py client that does not decode replies.

    Raises redis.exceptions.RedisError, and what the operation itself raises.
    """
    send: Callable[..., object] = client.execute_command
    try:
        request = next(operation)
        while True:
            reply: object = None
            try:
                match request:
                    case Command(words):
                        reply = send(*words)
                    case ScriptCall():
                        try:
                            reply = send(*request.evalsha())
                        except NoScriptError:
                            reply = send(*request.eval())
                    case Pause():
                        pass
            except RedisError as error:
                request = operation.throw(error)
            else:
                request = operation.send(reply)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # StopIteration knows no types


async def run(call: Call, operation: Operation[T]) -> T:
    """Run an operation to its end over an asynchronous call.

    Raises what ``call`` raises, and what the operation itself raises. When ``call`` is cancelled the operation is
    closed, and Redis may or may not have done the request that was under way.
    """
    try:
        request = next(operation)
        while True:
            reply: object = None
            try:
                match request:
                    case Command(words):
                        reply = await call(*words)
                    case ScriptCall():
                        try:
                            reply = await call(*request.evalsha())
                        except NoScriptError:
                            reply = await call(*request.eval())
                    case Pause():
                        reply = await call("PING")  # waiting for anything is a pause, whatever the event loop
            except RedisError as error:
                request = operation.throw(error)
            else:
                request = operation.send(reply)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # StopIteration knows no types
    finally:
        operation.close()
