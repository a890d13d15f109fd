"""What a linter needs to know of a suite: which metrics it has, and the items that one look draws.

Reading suites is ``loop.suites``' job; this is the port through which its answer comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ItemFacts:
    """Where one item belongs."""

    cluster: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class SuiteFacts:
    """``metrics`` a gate may read; of these, ``unbounded`` ones need a scale, and ``binary`` ones are 0 or 1.

    ``items`` are those of one draw. Which ones are drawn depends on the seed, their number does not.
    ``has_outputs`` is false for a suite that is scored by likelihoods alone.
    """

    metrics: tuple[str, ...]
    binary: frozenset[str]
    unbounded: frozenset[str]
    items: tuple[ItemFacts, ...]
    has_outputs: bool


ReadSuite = Callable[[Path], SuiteFacts]
"""Raises :class:`guards.errors.StairlockError` for a suite that cannot be read or drawn from."""


def source_of(item: ItemFacts, group_by: str) -> str | None:
    """The source to which ``group_by`` (``cluster`` or ``tag:NAME``) assigns the item; None without that tag."""
    return item.cluster if group_by == "cluster" else item.tags.get(group_by.removeprefix("tag:"))
