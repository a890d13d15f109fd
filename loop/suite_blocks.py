"""Blocks: the items of one draw, in parts that are answered one after another.

The order is the look's: items are sorted by a keyed digest of their ids, the key being the seed. So each
block is a random part of the items, nobody could choose which, and whoever has the seed can check it.

Not covered: whether the remaining blocks are needed; :mod:`guards.gates.early_stop` says that.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from pydantic import Field, model_validator

from guards.evidence import Frozen
from loop.suites import SuiteItem


class Block(Frozen):
    """Part ``number`` (from 0) of ``of``; some are empty where there are fewer items than parts."""

    number: int = Field(ge=0)
    of: int = Field(ge=1)

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Block:
        if self.number >= self.of:
            raise ValueError(f"there is no block {self.number} of {self.of}, counted from 0")
        return self


def items_of_block(items: Sequence[SuiteItem], seed: bytes, suite_name: str, block: Block) -> tuple[SuiteItem, ...]:
    """The block's items, in the order that they have among ``items``, the whole draw."""

    def place(item: SuiteItem) -> bytes:
        return hmac.new(seed, f"{suite_name}\n{item.item_id}".encode(), hashlib.sha256).digest()

    order = sorted(items, key=place)
    start, end = (-(-len(order) * number // block.of) for number in (block.number, block.number + 1))
    chosen = {item.item_id for item in order[start:end]}
    return tuple(item for item in items if item.item_id in chosen)


def seed_of_block(seed: bytes, block: Block | None) -> int:
    """Seed for sampling answers: blocks must not share their noise."""
    if block is None:
        return int.from_bytes(seed[:6], "big")
    return int.from_bytes(hmac.new(seed, f"block {block.number}".encode(), hashlib.sha256).digest()[:6], "big")
