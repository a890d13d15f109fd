"""Repeatable randomness from seed bytes: the same seed gives the same items on any Python.

Method: HMAC-SHA256 in counter mode, keyed with the seed and bound to a label, read as 64-bit
integers; bounded draws reject the tail, so that they are uniform. ``random.Random`` is not
used because its sampling methods may change between Python versions, and an item set that
changes with the interpreter cannot be drawn again by an auditor.

Not covered: hiding the seed. Whoever knows it knows every item.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import TypeVar

_Item = TypeVar("_Item")
_WORD_BYTES = 8
_WORD_RANGE = 1 << (8 * _WORD_BYTES)


class SeededStream:
    """An endless stream of uniform integers, fixed by ``seed`` and ``label``."""

    def __init__(self, seed: bytes, label: str) -> None:
        self._key = hmac.new(seed, b"stairlock/stream/v1\n" + label.encode("utf-8"), hashlib.sha256).digest()
        self._counter = 0
        self._pool = b""

    def _word(self) -> int:
        if not self._pool:
            self._pool = hmac.new(self._key, self._counter.to_bytes(8, "big"), hashlib.sha256).digest()
            self._counter += 1
        word, self._pool = self._pool[:_WORD_BYTES], self._pool[_WORD_BYTES:]
        return int.from_bytes(word, "big")

    def below(self, bound: int) -> int:
        """A uniform integer in [0, bound), for bounds from 1 to 2**64."""
        if not 1 <= bound <= _WORD_RANGE:
            raise ValueError(f"bound must be in [1, 2**64], got {bound}")
        limit = _WORD_RANGE - _WORD_RANGE % bound
        while True:
            word = self._word()
            if word < limit:
                return word % bound

    def between(self, low: int, high: int) -> int:
        """A uniform integer in [low, high], both included."""
        return low + self.below(high - low + 1)

    def sample(self, population: Sequence[_Item], n: int) -> list[_Item]:
        """``n`` different positions of ``population``, in random order (partial Fisher-Yates)."""
        if not 0 <= n <= len(population):
            raise ValueError(f"cannot sample {n} of {len(population)}")
        items = list(population)
        for i in range(n):
            j = i + self.below(len(items) - i)
            items[i], items[j] = items[j], items[i]
        return items[:n]

    def shuffled(self, population: Sequence[_Item]) -> list[_Item]:
        """All of ``population`` in random order."""
        return self.sample(population, len(population))
