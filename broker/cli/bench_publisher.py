"""The publisher of `signalbox bench`: a process of its own, so that it never waits for the clients that are measured.

It reads one line of JSON from stdin, the plan; answers "ready"; and begins at the next line. Each further line is the
number of publications that every client has received, which a flood keeps up with.
"""

import os
import sys
import time

import attrs
import orjson
import redis

from broker.link.address import open_client

STAMP = b'"ts":"'
"""What stands before the time of publication: CLOCK_MONOTONIC, which all processes of a machine share, in 19 digits."""

_AT_ONCE = 50


@attrs.frozen
class Plan:
    """What to publish.

    Attributes:
        url: of the Redis.
        channels: (name for clients, name at Redis) pairs, used in turn.
        messages: how many publications in all.
        size: bytes of each, about.
        rate: publications a second; 0: as fast as they arrive.
        window: with rate 0, how many may be under way.
    """

    url: str
    channels: tuple[tuple[str, str], ...]
    messages: int
    size: int
    rate: float
    window: int

    def encode(self) -> bytes:
        """Return the plan as one line."""
        return orjson.dumps(attrs.asdict(self)) + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> "Plan":
        """Read what `encode` made."""
        fields = orjson.loads(line)
        return cls(**fields | {"channels": tuple((str(shown), str(name)) for shown, name in fields["channels"])})


class Publisher:
    """Carries a plan out on one connection."""

    def __init__(self, plan: Plan, client: "redis.Redis") -> None:
        self._plan = plan
        self._client = client
        self._received = 0
        self._input = b""
        self._pad = b""
        self._pad = b"x" * max(0, plan.size - len(self._event(0)[1]))

    def run(self) -> None:
        """Publish everything."""
        if self._plan.rate:
            self._run_paced()
        else:
            self._run_flood()

    def _run_paced(self) -> None:
        began = time.monotonic()
        for number in range(self._plan.messages):
            wait = began + number / self._plan.rate - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            self._client.publish(*self._event(number))

    def _run_flood(self) -> None:
        number = 0
        while number < self._plan.messages:
            room = self._received + self._plan.window - number
            if room <= 0:
                if not self._hear():
                    return
                continue
            last = min(number + min(room, _AT_ONCE), self._plan.messages)
            pipeline = self._client.pipeline(transaction=False)
            for each in range(number, last):
                pipeline.publish(*self._event(each))
            pipeline.execute()
            number = last

    def _hear(self) -> bool:
        """Wait for the next word of how far the clients are; returns whether there was one."""
        data = os.read(0, 4096)
        lines = (self._input + data).split(b"\n")
        self._input = lines.pop()
        if lines:
            self._received = int(lines[-1])
        return bool(data)

    def _event(self, number: int) -> tuple[str, bytes]:
        shown, name = self._plan.channels[number % len(self._plan.channels)]
        head = b'{"type":"bench","channel":%b,"data":{"seq":%d,' % (orjson.dumps(shown), number)
        return name, b'%b"pad":"%b",%b%019d"}}' % (head, self._pad, STAMP, time.monotonic_ns())


def main() -> None:
    """Be the publisher; exits with a sentence on stderr when Redis does not let it."""
    plan = Plan.decode(sys.stdin.buffer.readline())
    try:
        client = open_client(plan.url)
        client.ping()
        print("ready", flush=True)
        if os.read(0, 4096):
            Publisher(plan, client).run()
    except redis.exceptions.RedisError as error:
        sys.exit(f"publishing failed: {error}")
    except BrokenPipeError:
        return


if __name__ == "__main__":
    main()
