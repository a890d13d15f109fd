"""The benign bank: drift vectors of many harmless fine-tunes of one parent, read strictly from one JSON file.

The null that a candidate is judged against. The bank holds the kit that its members were measured with, and
how they are scored, so that its digest (sha256 of the file) binds both.

Members whose harmlessness was not verified stay in the file, with the reason, and count for nothing.

Not covered: whether the members are harmless, and whether their vectors are what the probes measured (each
can be rebuilt from its manifest); whether they are like the fine-tunes that will be judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

from pydantic import Field, FiniteFloat, ValidationError, model_validator

from guards.canonical import parse_json_strict, sha256_bytes
from guards.drift.kit import Component, DriftKit, Label, Stage, wrong
from guards.errors import ConfigError, EvidenceError
from guards.evidence import Digest, Frozen

MAX_BANK_BYTES = 32 << 20
MAX_MEMBERS = 5_000

Method = Literal["mahalanobis", "max_abs_z", "directed_sum", "directed_max", "max_raw"]


class StageScoring(Frozen):
    """How one stage is scored (:mod:`guards.drift.scores` says what the methods are).

    ``regress_dose``: what the dose explains is taken off first; ``max_raw`` takes components as they are.
    ``components`` names those of the stage that are scored; None is all of them, those of the dose left out.
    """

    method: Method
    regress_dose: bool = True
    components: tuple[Label, ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> StageScoring:
        if self.method == "max_raw" and "regress_dose" in self.model_fields_set and self.regress_dose:
            raise wrong("drift.bad-bank", "max_raw takes components as they are, so nothing is regressed out")
        return self


class Scoring(Frozen):
    """How a bank's models are scored. A stage of the kit that is not named explains, and decides nothing.

    ``leave_out``: a model is scored against all others (``model``), or against those that share no data source
    with it (``source``). ``ridge`` is the penalty of the regression on the dose, whose columns have unit scale.
    """

    stages: dict[Stage, StageScoring] = Field(min_length=1)
    combine: Literal["max", "mean"] = "max"
    ridge: float = Field(default=1.0, gt=0.0, le=1e6)
    leave_out: Literal["model", "source"] = "model"


class Recipe(Frozen):
    """How a member was trained. ``rank`` is the adapter's, or null where all weights were trained."""

    n_rows: int = Field(ge=1)
    n_steps: int = Field(ge=1)
    learning_rate: float = Field(gt=0.0, allow_inf_nan=False)
    rank: int | None = Field(default=None, ge=1)
    format: Label


class Member(Frozen):
    """A fine-tune of the parent. ``clusters`` are the data sources that it was trained on.

    ``manifest_digest`` is that of the file from which it can be rebuilt. ``reason`` says how it was verified,
    or why it was not.
    """

    member_id: Label
    clusters: tuple[Label, ...] = Field(min_length=1)
    recipe: Recipe
    verified: bool
    reason: str = Field(min_length=1, max_length=2_000)
    manifest_digest: Digest
    vector: dict[Label, FiniteFloat]


@dataclass(frozen=True)
class Support:
    """The least and the largest value of a figure among the verified members."""

    least: float
    largest: float


class DriftBank(Frozen):
    """``stairlock/drift-bank/v1``."""

    schema_: Literal["stairlock/drift-bank/v1"] = Field(alias="schema")
    kit: DriftKit
    scoring: Scoring
    members: tuple[Member, ...] = Field(min_length=1, max_length=MAX_MEMBERS)

    @property
    def parent_digest(self) -> str:
        """The root that members and candidates are fine-tunes of."""
        return self.kit.parent_digest

    @property
    def verified(self) -> tuple[Member, ...]:
        """The members that count."""
        return tuple(member for member in self.members if member.verified)

    @property
    def least_p(self) -> Fraction:
        """The smallest p that any candidate can have."""
        return Fraction(1, len(self.verified) + 1)

    def scored(self, stage: Stage) -> tuple[Component, ...]:
        """The components that decide in a stage."""
        chosen = self.scoring.stages[stage].components
        return tuple(one for one in self.kit.of_stage(stage) if chosen is None or one.name in chosen)

    @property
    def sources(self) -> tuple[str, ...]:
        """The data sources of the verified members, sorted."""
        return tuple(sorted({source for member in self.verified for source in member.clusters}))

    def support(self, component: str) -> Support:
        """The range of a component among the verified members."""
        values = [member.vector[component] for member in self.verified]
        return Support(min(values), max(values))

    def median_vector(self) -> dict[str, float]:
        """A fine-tune as it usually is: the median of each component over the verified members."""
        return {
            component.name: _median([member.vector[component.name] for member in self.verified])
            for component in self.kit.components
        }

    @model_validator(mode="after")
    def _consistent(self) -> DriftBank:
        for rule, problem in self._problems():
            raise wrong(rule, problem)
        return self

    def _problems(self) -> Iterator[tuple[str, str]]:
        names = {component.name for component in self.kit.components}
        for stage in self.scoring.stages:
            if not self.kit.of_stage(stage):
                yield "drift.bad-bank", f"the stage {stage!r} is scored, and the kit has no component of it"
            chosen = self.scoring.stages[stage].components or ()
            unknown = set(chosen) - {component.name for component in self.kit.of_stage(stage)}
            if unknown or len(set(chosen)) != len(chosen):
                yield (
                    "drift.bad-bank",
                    f"the stage {stage!r} scores what is no component of it, or one twice: {min(unknown or chosen)!r}",
                )
        seen: set[str] = set()
        for member in self.members:
            if member.member_id in seen:
                yield "drift.duplicate-member", f"the member {member.member_id!r} is listed twice"
            seen.add(member.member_id)
            missing, unknown = names - member.vector.keys(), member.vector.keys() - names
            if missing:
                yield "drift.member-vector", f"the member {member.member_id!r} lacks the component {min(missing)!r}"
            if unknown:
                yield (
                    "drift.member-vector",
                    f"the member {member.member_id!r} has a component that the kit does not declare: {min(unknown)!r}",
                )
        if not self.verified:
            yield "drift.empty-bank", "no member is verified, so that there is nothing to judge a candidate against"


@dataclass(frozen=True)
class BankFile:
    """A bank as it was read, and sha256 of the bytes that it was read from."""

    bank: DriftBank
    digest: str


def read_bank(path: Path) -> BankFile:
    """Read a bank; what is returned is what was digested.

    Raises:
        ConfigError: ``drift.no-bank-file``, ``drift.bank-too-large``, ``drift.bad-bank``, ``drift.bad-kit``,
            ``drift.duplicate-member``, ``drift.member-vector``, ``drift.empty-bank``; ``json.malformed``,
            ``json.duplicate-key``, ``json.not-finite``.
    """
    try:
        with path.open("rb") as handle:
            data = handle.read(MAX_BANK_BYTES + 1)
    except OSError as error:
        raise ConfigError("drift.no-bank-file", f"{path}: the bank cannot be read ({error.strerror})") from error
    return parse_bank(data, source=str(path))


def parse_bank(data: bytes, *, source: str) -> BankFile:
    """:func:`read_bank` of bytes that are in memory; ``source`` names them in refusals."""
    if len(data) > MAX_BANK_BYTES:
        raise ConfigError("drift.bank-too-large", f"{source}: larger than a bank may be", expected=f"{MAX_BANK_BYTES}")
    try:
        parse_json_strict(data, source=source)  # keys that appear twice, NaN, infinities
        bank = DriftBank.model_validate_json(data, strict=True)
    except EvidenceError as error:
        raise ConfigError(error.rule, error.message, expected=error.expected) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part)[:100] for part in first["loc"])
        rule = first["type"] if "." in first["type"] else "drift.bad-bank"
        raise ConfigError(rule, f"{source}: {where + ': ' if where else ''}{first['msg']}") from error
    return BankFile(bank, sha256_bytes(data))


def _median(values: list[float]) -> float:
    ordered, middle = sorted(values), len(values) // 2
    if len(values) % 2:
        return ordered[middle]
    return math.fsum(ordered[middle - 1 : middle + 1]) / 2.0
