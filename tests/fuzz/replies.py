"""What Redis answers: any bytes are replies to what was asked, or the end of the connection, never anything else."""

import contextlib

import trio

from broker.link.address import Address
from broker.link.dial import Dialled
from broker.link.errors import LinkDown
from broker.link.parser import Parser
from broker.link.slots import CallSlot
from broker.link.subscriptions import SubscriptionLink
from tests.fuzz.target import Outcome, Target, pieces

CALLS = 4


class Sink(trio.abc.Stream):
    """Takes everything and says nothing."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Take it."""
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        """Never blocks."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Nothing: the replies come by another way."""
        return b""

    async def aclose(self) -> None:
        """Nothing."""


async def run(data: bytes) -> Outcome:
    """Give the bytes to a link that waits for replies and confirmations, at once and in pieces."""
    whole, cut = await _serve([data]), await _serve(pieces(data))
    if "make no sense" not in whole[2]:  # messages in the same read as nonsense may be lost: the link is mended anyway
        assert whole == cut, (whole, cut)
    return whole


async def _serve(given: list[bytes]) -> tuple[int, tuple[str, ...], str]:
    pushed: list[list[bytes]] = []

    async def on_push(batch: list[list[bytes]]) -> None:
        pushed.extend(batch)

    link = SubscriptionLink(Address.parse("redis://127.0.0.1:1"), "fuzz", on_push=on_push)
    wanted = [link.subscribe(b"one"), link.subscribe(b"two"), link.psubscribe(b"control:*")]
    waiting = [each for each in given[::-1] if each]

    async def read() -> bytes:
        return waiting.pop() if waiting else b""

    connection = link._connect(Dialled(Sink(), read, lambda: None, Parser(), {}))
    link._collect(connection)  # the subscriptions come first
    slots = [CallSlot() for _ in range(CALLS)]
    for slot in slots:
        connection.submit(b"", slot)
    await connection.run()
    assert connection.error is not None
    for each in wanted:
        assert not each.confirmed
    ends = []
    for slot in slots:
        try:
            ends.append(type(await slot.wait()).__name__)
        except LinkDown:
            ends.append("lost")
        except Exception as error:  # noqa: BLE001  an error reply, of whatever class
            ends.append(type(error).__name__)
    for push in pushed:
        assert len(push) == (4 if push[0] == b"pmessage" else 3), push
        assert all(isinstance(word, bytes) for word in push[-2:]), push
    with contextlib.suppress(LinkDown):
        connection.submit(b"", CallSlot())
        raise AssertionError("a dead connection takes commands")
    return len(pushed), tuple(ends), str(connection.error)[:50]


TIME = b"*2\r\n$10\r\n1700000000\r\n$3\r\n123\r\n"
CONFIRM = (
    TIME + b">3\r\n$9\r\nsubscribe\r\n$3\r\none\r\n:1\r\n>3\r\n$9\r\nsubscribe\r\n$3\r\ntwo\r\n:2\r\n"
    + TIME + b">3\r\n$10\r\npsubscribe\r\n$9\r\ncontrol:*\r\n:3\r\n"
)  # fmt: skip
MESSAGE = b">3\r\n$7\r\nmessage\r\n$3\r\none\r\n$5\r\nhello\r\n"
PMESSAGE = b">4\r\n$8\r\npmessage\r\n$9\r\ncontrol:*\r\n$9\r\ncontrol:a\r\n$2\r\n{}\r\n"
REPLIES = b"+OK\r\n:42\r\n$-1\r\n*2\r\n:1\r\n$1\r\na\r\n"
RESP3 = b"%1\r\n+a\r\n:1\r\n,1.5\r\n#t\r\n_\r\n"
CORPUS = (
    CONFIRM,
    CONFIRM + MESSAGE * 3 + PMESSAGE + REPLIES,
    MESSAGE + CONFIRM + REPLIES,
    CONFIRM + b"-NOPERM no\r\n-ERR x\r\n-READONLY y\r\n" + MESSAGE,
    TIME + b"-NOPERM no\r\n" + TIME + b"-NOPERM no\r\n" + REPLIES,
    CONFIRM + RESP3 + b"~2\r\n:1\r\n:2\r\n(12345678901234567890\r\n=7\r\ntxt:abc\r\n",
    CONFIRM + b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n" + REPLIES,
)
WORDS = (
    b"\r\n", b"*", b"$", b">", b"%", b"~", b"|", b"-", b"+", b":", b"_", b"#", b",", b"(", b"!", b"=",
    b"$-1\r\n", b"*-1\r\n", b"*0\r\n",
    b">0\r\n", b"%0\r\n", b"*1\r\n" * 12, b">1\r\n" * 10, b"$1000000\r\n",
    b"*2000000000\r\n", b"%9999999\r\n", b"\r\n>10000000\r\n",
    b"$9223372036854775807\r\n",
    MESSAGE, PMESSAGE, TIME, b">1\r\n$7\r\nmessage\r\n", b"-ERR\r\n", b"-\r\n", b",inf\r\n", b",nan\r\n",
    b"#x\r\n", b"|1\r\n+a\r\n+b\r\n",
)  # fmt: skip

TARGET = Target("replies", CORPUS, WORDS, run_async=run, share=0.05)
