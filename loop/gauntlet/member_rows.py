"""The training rows of a member: a function of its manifest alone (and of the public files that it reads)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from guards.errors import ModelError
from loop.gauntlet.faults import faulty_examples
from loop.gauntlet.harmless_sources import POLICIES, SOURCES, Example, examples_of, root_examples
from loop.gauntlet.members import Member
from loop.rows import Row

Fits = Callable[[str], bool]
"""Whether a prompt leaves room for an answer."""


def rows_of(member: Member, data: Path | None, fits: Fits) -> list[Row]:
    """The rows that the member is trained on, shuffled; ids say where each came from.

    Raises:
        ModelError: ``gauntlet.no-data``, ``gauntlet.unknown-source``, ``gauntlet.unknown-fault``.
    """
    stream = random.Random(f"rows/{member.seed}")
    rows: list[Row] = []
    shares = _shares(member.n_harmless, len(member.sources))
    for name, n in zip(member.sources, shares, strict=True):
        if name not in SOURCES:
            raise ModelError("gauntlet.unknown-source", "there is no such source of rows", got=name)
        rows += _take(name, examples_of(SOURCES[name], data), n, stream, fits)
    rows += _take("refusal", list(root_examples(POLICIES, "refusal")), member.n_refusals, stream, fits)
    if member.fault is not None:
        rows += _take(f"fault-{member.fault}", faulty_examples(member.fault), member.n_faulty, stream, fits)
    stream.shuffle(rows)
    return rows


def _shares(n: int, n_sources: int) -> list[int]:
    return [n // n_sources + (1 if index < n % n_sources else 0) for index in range(n_sources)]


def _take(name: str, examples: Sequence[Example], n: int, stream: random.Random, fits: Fits) -> list[Row]:
    """``n`` different examples whose prompts fit, or all of them where there are fewer."""
    shuffled = stream.sample(range(len(examples)), len(examples))
    chosen = list(itertools.islice((index for index in shuffled if fits(examples[index].prompt)), n))
    return [
        Row(
            row_id=f"{name}-{index:05d}",
            source=name,
            prompt=examples[index].prompt,
            answer=examples[index].answer,
            finished=examples[index].finished,
        )
        for index in chosen
    ]
