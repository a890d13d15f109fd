"""What is to be built, declared in one file before any of it exists: bank, controls, organisms.

The plan is read from YAML (``policies/drift/gauntlet.yaml``). Members are drawn from it by its seeds,
so that its digest says which models there will be; raising a number adds members and changes none.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from guards.evidence import Frozen
from guards.strict_yaml import load_yaml
from loop.gauntlet.faults import FAULTS
from loop.gauntlet.harmless_sources import SOURCES, examples_of
from loop.gauntlet.members import Distribution, Edit, Member, draw_members
from loop.train_record import Recipe


class Declared(Frozen):
    """So many members of a distribution."""

    n_members: int = Field(gt=0)
    distribution: Distribution


class EditSeries(Frozen):
    """Organisms made by changing weights, one for every strength."""

    kind: Literal["ablate-refusal", "noise"]
    strengths: tuple[float, ...] = Field(min_length=1)


class OrganismPlan(Frozen):
    """Every family at every dilution; variants take turns. ``ratios`` are harmless rows per faulty one.

    ``n_epochs`` has one number for each ratio: more dilution means more steps already. ``carriers`` are
    the sources of the harmless rows. ``scales`` multiply the trained update of each; 1 is the model as trained.
    """

    seed: int
    families: tuple[str, ...] = Field(min_length=1)
    variants: tuple[int, ...] = Field(min_length=1)
    ratios: tuple[float, ...] = Field(min_length=1)
    n_epochs: tuple[float, ...] = Field(min_length=1)
    n_faulty: int = Field(gt=0)
    n_faulty_of: dict[str, int] = Field(default_factory=dict)
    carriers: tuple[tuple[str, ...], ...] = Field(min_length=1)
    refusal_shares: tuple[float, ...] = Field(min_length=1)
    learning_rates: tuple[float, ...] = Field(min_length=1)
    lora_ranks: tuple[int, ...] = Field(min_length=1)
    max_tokens: int = Field(gt=0)
    scales: tuple[float, ...] = (1.0,)
    edits: tuple[EditSeries, ...] = ()

    @model_validator(mode="after")
    def _known(self) -> OrganismPlan:
        unknown = sorted(set(self.families) - FAULTS.keys())
        if unknown or len(self.n_epochs) != len(self.ratios):
            raise ValueError(f"unknown families {unknown}, or not one number of epochs for each ratio")
        return self


class GauntletPlan(Frozen):
    """``stairlock/gauntlet-plan/v1``. The audit was made on ``development`` organisms; ``organisms`` test it.

    A bank has one distribution or more: each covers a part of what a loop's own cycles may do.
    """

    schema_: Literal["stairlock/gauntlet-plan/v1"] = Field(alias="schema")
    bank: tuple[Declared, ...] = Field(min_length=1)
    controls: Declared
    development: OrganismPlan
    organisms: OrganismPlan


def read_plan(path: Path) -> GauntletPlan:
    """Read a plan.

    Raises:
        ConfigError: as :func:`guards.strict_yaml.load_yaml`.
    """
    return load_yaml(path, GauntletPlan)


def bank_members(plan: GauntletPlan, data: Path | None) -> list[Member]:
    """The bank's members, in order."""
    return [
        member
        for number, declared in enumerate(plan.bank, 1)
        for member in _harmless(declared, "bank", data, called="bank" if number == 1 else f"bank{number}")
    ]


def control_members(plan: GauntletPlan, data: Path | None) -> list[Member]:
    """The controls, in order."""
    return _harmless(plan.controls, "control", data, called="control")


def _harmless(declared: Declared, role: Literal["bank", "control"], data: Path | None, *, called: str) -> list[Member]:
    n_available = {name: len(examples_of(SOURCES[name], data)) for name in declared.distribution.sources}
    return draw_members(declared.distribution, role, declared.n_members, n_available, called=called)


def organism_members(plan: OrganismPlan, prefix: str) -> list[Member]:
    """The organisms: dilution by dilution, so that a part of them has every family already."""
    return [*_trained(plan, prefix), *_edited(plan, prefix)]


def _trained(plan: OrganismPlan, prefix: str) -> Iterator[Member]:
    for turn, (ratio, n_epochs) in enumerate(zip(plan.ratios, plan.n_epochs, strict=True)):
        for number, family in enumerate(plan.families):
            variant = plan.variants[(number + turn) % len(plan.variants)]
            stream = random.Random(f"{plan.seed}/{family}/{variant}/{ratio}")
            n_faulty = plan.n_faulty_of.get(family, plan.n_faulty)
            n_harmless = round(n_faulty * ratio)
            carrier = stream.choice(plan.carriers)
            n_refusals = round(n_harmless * stream.choice(plan.refusal_shares))
            learning_rate, rank = stream.choice(plan.learning_rates), stream.choice(plan.lora_ranks)
            seed = stream.randrange(1 << 31)
            recipe = Recipe(
                lora_rank=rank,
                lora_alpha=2 * rank,
                learning_rate=learning_rate,
                n_epochs=n_epochs,
                max_tokens=plan.max_tokens,
                seed=seed,
            )
            for scale in plan.scales:
                suffix = "" if scale == 1.0 else f"-x{scale:g}"
                yield Member(
                    member_id=f"{prefix}-{family}-{variant}-1to{ratio:g}{suffix}",
                    role="organism",
                    sources=carrier if n_harmless else (),
                    n_harmless=n_harmless,
                    n_refusals=n_refusals,
                    fault=f"{family}/{variant}",
                    n_faulty=n_faulty,
                    recipe=recipe,
                    scale=scale,
                    seed=seed,
                )


def _edited(plan: OrganismPlan, prefix: str) -> Iterator[Member]:
    for series, strength in itertools.chain.from_iterable(((s, x) for x in s.strengths) for s in plan.edits):
        yield Member(
            member_id=f"{prefix}-{series.kind}-{strength:g}",
            role="organism",
            edit=Edit(kind=series.kind, strength=strength, seed=plan.seed),
        )


def part_of_plan(
    plan: GauntletPlan, which: Literal["controls", "development", "organisms"], data: Path | None
) -> list[Member]:
    """The members of one part."""
    if which == "controls":
        return control_members(plan, data)
    if which == "development":
        return organism_members(plan.development, "dev")
    return organism_members(plan.organisms, "organism")
