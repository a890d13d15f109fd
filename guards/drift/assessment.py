"""A candidate's drift vector against a bank: p, and what a reviewer needs to see why.

Not covered: what follows from it (:mod:`guards.gates.drift`), and what :mod:`guards.drift.scores` does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from guards.drift.bank import DriftBank, Member, Method, Support
from guards.drift.components import DriftVector
from guards.drift.kit import Stage
from guards.drift.scores import Floats, ModelScores, StageColumns, n_at_least, score_models
from guards.errors import EvidenceError


@dataclass(frozen=True)
class StageFinding:
    """One stage's standardised score, and the p that it would have alone."""

    stage: Stage
    method: Method
    score: float
    p: Fraction


@dataclass(frozen=True)
class Contribution:
    """A component of the candidate beside the bank's; ``z`` on its suspicious side, the dose taken off."""

    component: str
    stage: Stage
    z: float
    value: float
    median: float
    support: Support


@dataclass(frozen=True)
class DoseFinding:
    """Where a figure of the dose lies in the range of the verified members."""

    component: str
    value: float
    support: Support
    position: Literal["inside", "above", "below"]


@dataclass(frozen=True)
class WithoutSource:
    """p where the bank has no member of ``source``; None where too few members would be left."""

    source: str
    n_bank: int
    p: Fraction | None


@dataclass(frozen=True)
class Assessment:
    """``contributions`` are all components of scored stages, the most unusual first."""

    p: Fraction
    n_bank: int
    score: float
    stages: tuple[StageFinding, ...]
    contributions: tuple[Contribution, ...]
    dose: tuple[DoseFinding, ...]
    without_source: tuple[WithoutSource, ...]


def scored_stages(bank: DriftBank, vector: DriftVector) -> tuple[Stage, ...]:
    """The stages that the bank scores and the candidate has."""
    return tuple(stage for stage in bank.scoring.stages if stage not in vector.unsupported)


def assess(bank: DriftBank, vector: DriftVector) -> Assessment:
    """Score the candidate and the verified members, each against the others.

    A stage that the candidate does not have is left out for all models alike.

    Raises:
        EvidenceError: ``drift.no-stage`` where none is left; as :func:`guards.drift.scores.score_models`.
    """
    stages = scored_stages(bank, vector)
    if not stages:
        raise EvidenceError("drift.no-stage", "no stage that the bank scores was measured on the candidate")
    members = bank.verified
    scores = _scores(bank, stages, members, vector)
    return Assessment(
        p=_p(scores.combined),
        n_bank=len(members),
        score=float(scores.combined[-1]),
        stages=tuple(
            StageFinding(
                stage, bank.scoring.stages[stage].method, float(scores.by_stage[stage][-1]), _p(scores.by_stage[stage])
            )
            for stage in stages
        ),
        contributions=_contributions(bank, stages, vector, scores),
        dose=tuple(_dose(name, vector.values[name], bank.support(name)) for name in bank.kit.dose),
        without_source=tuple(_without(bank, stages, source, vector) for source in bank.sources),
    )


def p_value(bank: DriftBank, vector: DriftVector) -> Fraction:
    """The combined p of :func:`assess`, and nothing else of it.

    Raises:
        EvidenceError: as :func:`assess`.
    """
    stages = scored_stages(bank, vector)
    if not stages:
        raise EvidenceError("drift.no-stage", "no stage that the bank scores was measured on the candidate")
    return _p(_scores(bank, stages, bank.verified, vector).combined)


def _scores(bank: DriftBank, stages: Sequence[Stage], members: Sequence[Member], vector: DriftVector) -> ModelScores:
    """Scores of ``members`` and, last, the candidate."""

    def columns(names: Sequence[str]) -> Floats:
        missing = [name for name in names if name not in vector.values]
        if missing:
            raise EvidenceError("drift.no-value", f"the candidate has no component {missing[0]!r}")
        rows = [[member.vector[name] for name in names] for member in members]
        rows.append([vector.values[name] for name in names])
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(names))

    by_stage: dict[str, StageColumns] = {}
    for stage in stages:
        components = bank.scored(stage)
        by_stage[stage] = StageColumns(
            values=columns([component.name for component in components]),
            sides=tuple(component.side for component in components),
            scoring=bank.scoring.stages[stage],
        )
    # The gate does not know the candidate's data sources: it counts as one of a source of its own.
    sources = [*(frozenset(member.clusters) for member in members), frozenset[str]()]
    return score_models(by_stage, columns(bank.kit.dose), bank.scoring, sources)


def _p(scores: Floats) -> Fraction:
    return Fraction(1 + n_at_least(scores), len(scores))


def _contributions(
    bank: DriftBank, stages: Sequence[Stage], vector: DriftVector, scores: ModelScores
) -> tuple[Contribution, ...]:
    medians = bank.median_vector()
    found = [
        Contribution(
            component=component.name,
            stage=stage,
            z=float(scores.z[stage][-1, column]),
            value=vector.values[component.name],
            median=medians[component.name],
            support=bank.support(component.name),
        )
        for stage in stages
        for column, component in enumerate(bank.scored(stage))
    ]
    return tuple(sorted(found, key=lambda one: -one.z))


def _dose(name: str, value: float, support: Support) -> DoseFinding:
    position: Literal["inside", "above", "below"] = "inside"
    if value > support.largest:
        position = "above"
    elif value < support.least:
        position = "below"
    return DoseFinding(name, value, support, position)


def _without(bank: DriftBank, stages: Sequence[Stage], source: str, vector: DriftVector) -> WithoutSource:
    members = [member for member in bank.verified if source not in member.clusters]
    try:
        p = _p(_scores(bank, stages, members, vector).combined)
    except EvidenceError:  # too few members are left
        p = None
    return WithoutSource(source, len(members), p)
