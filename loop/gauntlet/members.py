"""A member: one model that was made on purpose, as a manifest from which it can be made again.

Members are drawn at random from a declared distribution (:class:`Distribution`), by a seed that the
declaration names: nobody chooses them one by one. Declared sets only grow at their end, so every
later hour of compute adds members and changes none.
"""

from __future__ import annotations

import math
import random
from typing import Literal

from pydantic import Field

from guards.canonical import digest_of
from guards.evidence import Frozen
from loop.train_record import Recipe

Role = Literal["bank", "control", "organism"]


class Edit(Frozen):
    """A change of weights without training; :mod:`loop.gauntlet.edits` says what ``strength`` is of each kind."""

    kind: Literal["ablate-refusal", "noise"]
    strength: float = Field(gt=0)
    seed: int = 0


class Member(Frozen):
    """Everything that makes one model from the root.

    ``sources`` name harmless data (:data:`loop.gauntlet.harmless_sources.SOURCES`); ``n_harmless``
    rows of them are drawn by ``seed``, and ``n_refusals`` rows of the root's own refusals are
    retained. An organism has ``fault`` and ``n_faulty`` rows of it besides; or an ``edit`` and no rows.
    ``scale`` multiplies the trained update when it is merged.
    """

    member_id: str
    role: Role
    sources: tuple[str, ...] = ()
    n_harmless: int = Field(default=0, ge=0)
    n_refusals: int = Field(default=0, ge=0)
    fault: str | None = None
    n_faulty: int = Field(default=0, ge=0)
    edit: Edit | None = None
    recipe: Recipe | None = None
    scale: float = Field(default=1.0, gt=0)
    seed: int = 0

    @property
    def digest(self) -> str:
        """The member's identity, the name and role left out."""
        return digest_of(self.model_dump(mode="json", exclude={"member_id", "role"}))

    @property
    def n_rows(self) -> int:
        return self.n_harmless + self.n_refusals + self.n_faulty


class Distribution(Frozen):
    """What harmless members are drawn from. Every draw is independent of what any model did.

    Learning rates are log-uniform, everything else uniform over what is listed. Draws with more than
    ``max_steps`` optimizer steps are drawn again.
    """

    seed: int
    sources: tuple[str, ...] = Field(min_length=1)
    p_second_source: float = Field(ge=0, le=1)
    n_rows: tuple[int, ...] = Field(min_length=1)
    refusal_shares: tuple[float, ...] = Field(min_length=1)
    learning_rate: tuple[float, float]
    lora_ranks: tuple[int, ...] = Field(min_length=1)
    n_epochs: tuple[float, ...] = Field(min_length=1)
    max_tokens: tuple[int, ...] = Field(min_length=1)
    batch_size: int = Field(gt=0, default=16)
    max_steps: int = Field(gt=0)


def draw_members(
    distribution: Distribution, role: Role, n: int, n_available: dict[str, int], *, called: str = ""
) -> list[Member]:
    """The first ``n`` members, with ids that begin with ``called`` (the role); ``n_available`` says how many rows
    each source has.

    First sources come round in shuffled turns, so that each has its share in every stretch of members.
    """
    turns: list[str] = []
    members = []
    for number in range(n):
        stream = random.Random(f"{distribution.seed}/{role}/{number}")
        if not turns:
            turns = list(distribution.sources)
            stream.shuffle(turns)
        member_id = f"{called or role}-{number:03d}"
        members.append(_draw_one(distribution, role, member_id, turns.pop(), stream, n_available))
    return members


def _draw_one(
    distribution: Distribution,
    role: Role,
    member_id: str,
    first: str,
    stream: random.Random,
    n_available: dict[str, int],
) -> Member:
    while True:
        sources = (first,)
        if stream.random() < distribution.p_second_source:
            sources = (first, stream.choice([name for name in distribution.sources if name != first]))
        n_harmless = min(stream.choice(distribution.n_rows), sum(n_available[name] for name in sources))
        n_refusals = round(stream.choice(distribution.refusal_shares) * n_harmless)
        n_epochs = stream.choice(distribution.n_epochs)
        low, high = (math.log(bound) for bound in distribution.learning_rate)
        learning_rate = float(f"{math.exp(stream.uniform(low, high)):.3g}")
        rank = stream.choice(distribution.lora_ranks)
        max_tokens = stream.choice(distribution.max_tokens)
        seed = stream.randrange(1 << 31)
        n_steps = n_epochs * math.ceil((n_harmless + n_refusals) / distribution.batch_size)
        if n_steps <= distribution.max_steps:
            recipe = Recipe(
                lora_rank=rank,
                lora_alpha=2 * rank,
                learning_rate=learning_rate,
                n_epochs=n_epochs,
                batch_size=distribution.batch_size,
                max_tokens=max_tokens,
                seed=seed,
            )
            return Member(
                member_id=member_id,
                role=role,
                sources=sources,
                n_harmless=n_harmless,
                n_refusals=n_refusals,
                recipe=recipe,
                seed=seed,
            )
