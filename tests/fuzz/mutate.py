"""Making new inputs of old ones: a seed decides everything."""

import random
from collections.abc import Sequence

__all__ = ["Mutator"]

MAX_BYTES = 2048
NUMBERS = (0, 1, 0x7D, 0x7E, 0x7F, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8A, 0xC1, 0xFE, 0xFF)


class Mutator:
    """Draws inputs from a corpus that grows.

    Args:
        corpus: good inputs to begin with.
        words: what inputs of this kind are made of.
        dice: decides.
    """

    def __init__(self, corpus: Sequence[bytes], words: Sequence[bytes], dice: random.Random) -> None:
        self.corpus = list(corpus)
        self._words = words
        self._dice = dice
        self._ways = (self._flip, self._overwrite, self._insert, self._cut, self._repeat, self._splice, self._word)

    def draw(self) -> bytes:
        """Return the next input."""
        data = bytearray(self._dice.choice(self.corpus))
        for _ in range(self._dice.choice((0, 1, 1, 1, 2, 2, 3, 5, 8))):
            self._dice.choice(self._ways)(data)
        return bytes(data[:MAX_BYTES])

    def keep(self, data: bytes) -> None:
        """Take an input that did something new into the corpus."""
        if len(self.corpus) < 4000:
            self.corpus.append(data)

    def _at(self, data: bytearray) -> int:
        return self._dice.randrange(len(data) + 1)

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self._dice.randrange(len(data))] ^= 1 << self._dice.randrange(8)

    def _overwrite(self, data: bytearray) -> None:
        if data:
            data[self._dice.randrange(len(data))] = self._dice.choice((*NUMBERS, self._dice.randrange(256)))

    def _insert(self, data: bytearray) -> None:
        at = self._at(data)
        data[at:at] = self._dice.randbytes(self._dice.choice((1, 1, 2, 4, 16)))

    def _cut(self, data: bytearray) -> None:
        at = self._at(data)
        del data[at : at + self._dice.choice((1, 1, 2, 4, 16, 64))]

    def _repeat(self, data: bytearray) -> None:
        at, size = self._at(data), self._dice.choice((1, 2, 4, 16, 64))
        data[at:at] = data[at : at + size] * self._dice.choice((1, 1, 2, 10))

    def _splice(self, data: bytearray) -> None:
        other = self._dice.choice(self.corpus)
        begin = self._dice.randrange(len(other) + 1)
        at = self._at(data)
        data[at : at + self._dice.choice((0, 0, 4, 64, len(data)))] = other[
            begin : begin + self._dice.choice((4, 64, 999))
        ]

    def _word(self, data: bytearray) -> None:
        at = self._at(data)
        data[at : at + self._dice.choice((0, 0, 1, 4))] = self._dice.choice(self._words)
