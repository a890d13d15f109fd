"""The kinds of gates that a policy may declare, as a YAML file says them.

A gate's model refuses what could never be meant (a margin out of range, a collapse gate without a
limit); what a gate refers to is checked by :func:`guards.policy.resolve_policy`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, cast

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from guards.evidence import Frozen

GateId = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]+([_-][a-z0-9]+)*$", max_length=64)]
LEAST_LEVEL = 1e-6  # nearer to 0 or 1, 2 * level - 1 is rounded to what no test can exceed
Claim = Literal["superior_by", "non_inferior_within", "at_least", "at_most"]
Change = Literal["weights", "architecture", "tokenizer", "chat_template", "generation_config", "dtype"]


class EvalGate(Frozen):
    """A claim about one metric of one suite; higher is better, always.

    Paired claims compare with ``against`` on the same items: ``superior_by`` a margin, or
    ``non_inferior_within`` one, in the metric's own unit. ``at_least`` and ``at_most`` hold the
    candidate alone to a ``level``.

    Without ``scale`` a metric must lie in [0, 1]. With it the metric may be unbounded: paired
    differences are divided by ``scale`` and clipped to [-1, 1], so the claim is about the mean of
    the clipped difference, and a loss on one item counts as ``scale`` at most.

    ``group_by`` names what items share (their ``cluster``, or the value of a tag): the items of one
    source then count as one, by their mean, and the claim is about the mean over sources; so does
    ``min_items``. ``judge`` names the judge whose verdicts the metric counts (:class:`Judge`).
    """

    id: GateId
    kind: Literal["eval"]
    description: str = ""
    suite: Name
    metric: Name
    claim: Claim
    margin: float | None = None
    level: float | None = None
    against: Literal["champion", "root", "anchor"] | None = None
    alpha: float = Field(gt=0.0, le=0.2)
    min_items: int = Field(ge=1)
    max_unscored: float = Field(ge=0.0, le=0.2)
    clusters: tuple[str, ...] | None = Field(default=None, min_length=1)
    scale: float | None = Field(default=None, gt=0.0)
    group_by: Annotated[str, Field(pattern=r"^(cluster|tag:[a-z0-9]+([_-][a-z0-9]+)*)$", max_length=80)] | None = None
    judge: Name | None = None

    @property
    def is_paired(self) -> bool:
        return self.claim in ("superior_by", "non_inferior_within")

    @model_validator(mode="after")
    def _claim_has_what_it_needs(self) -> EvalGate:
        if self.is_paired:
            self._check_paired()
        elif self.level is None or self.margin is not None or self.against is not None or self.scale is not None:
            raise wrong("policy.claim-shape", f"{self.claim} needs 'level', and no 'margin', 'against' or 'scale'")
        elif not LEAST_LEVEL <= self.level <= 1.0 - LEAST_LEVEL:
            allowed = f"between {LEAST_LEVEL:f} and {1.0 - LEAST_LEVEL:f}"
            raise wrong("policy.level-range", f"the level must lie {allowed}, not at {self.level}")
        if self.judge is not None and (self.scale is not None or self.group_by is not None):
            raise wrong("policy.judge-metric", "a judge says yes or no to single items: no 'scale' and no 'group_by'")
        return self

    def _check_paired(self) -> None:
        if self.margin is None or self.against is None or self.level is not None:
            raise wrong("policy.claim-shape", f"{self.claim} needs 'margin' and 'against', and no 'level'")
        largest = self.scale or 1.0
        if self.claim == "superior_by" and not 0.0 <= self.margin < largest:
            raise wrong("policy.margin-range", f"superior_by needs a margin in [0, {largest:g}), not {self.margin}")
        if self.claim == "non_inferior_within" and not 0.0 < self.margin < largest:
            raise wrong(
                "policy.margin-range", f"non_inferior_within needs a margin in (0, {largest:g}), not {self.margin}"
            )


class IntegrityGate(Frozen):
    """The candidate differs from ``against`` in its weights, and else only in ``allow_changes``."""

    id: GateId
    kind: Literal["integrity"]
    description: str = ""
    against: Literal["champion", "root"] = "champion"
    allow_changes: tuple[Change, ...] = ()


class CollapseGate(Frozen):
    """The candidate's outputs are about as varied and as long as the reference's, as ratios to it.

    ``min_distinct_share``: distinct outputs; ``min_entropy_ratio``: word entropy;
    ``max_length_ratio`` and ``min_length_ratio``: mean number of output tokens.
    """

    id: GateId
    kind: Literal["collapse"]
    description: str = ""
    suite: Name
    against: Literal["champion", "root"]
    min_items: int = Field(ge=2)
    min_distinct_share: float | None = Field(default=None, gt=0.0, le=1.0)
    min_entropy_ratio: float | None = Field(default=None, gt=0.0, le=1.0)
    max_length_ratio: float | None = Field(default=None, ge=1.0)
    min_length_ratio: float | None = Field(default=None, gt=0.0, le=1.0)

    @model_validator(mode="after")
    def _asks_something(self) -> CollapseGate:
        limits = (self.min_distinct_share, self.min_entropy_ratio, self.max_length_ratio, self.min_length_ratio)
        if all(limit is None for limit in limits):
            raise wrong("policy.no-limits", "a collapse gate without a limit would pass anything")
        return self


class ContaminationGate(Frozen):
    """No training row equals a gate item, and none shares ``ngram`` words in a row with one."""

    id: GateId
    kind: Literal["contamination"]
    description: str = ""
    suites: tuple[Name, ...] = Field(min_length=1)
    ngram: int = Field(default=13, ge=5, le=50)


class BudgetGate(Frozen):
    """Upper limits, inclusive, on how far the loop may go; ``max_tokens_trained`` null means no limit.

    Cycles count the candidate that is judged, so fewer than 1 would pass none.
    """

    id: GateId
    kind: Literal["budget"]
    description: str = ""
    max_cycles_without_person: int = Field(ge=1)
    max_cost_s: int = Field(gt=0)
    max_tokens_trained: int | None = Field(default=None, gt=0)


class DriftGate(Frozen):
    """The candidate differs from the root as the harmless fine-tunes of ``bank`` do, or it is stopped.

    p is the share of models, bank and candidate together, that drifted at least as unusually as the candidate.
    At ``block_at`` or below it is blocked, at ``review_at`` or below held. Both are false-alarm rates on harmless
    candidates: looks do not divide them. ``training_rows: required`` holds a candidate whose training rows were
    not searched for triggers; ``smaller_dose: allowed`` lets it be trained less than any member of the bank.
    """

    id: GateId
    kind: Literal["drift"]
    description: str = ""
    bank: Name
    block_at: float = Field(gt=0.0, le=0.2)
    review_at: float = Field(gt=0.0, le=0.5)
    min_documents: int = Field(ge=1)
    training_rows: Literal["required", "optional"] = "required"
    smaller_dose: Literal["inconclusive", "allowed"] = "inconclusive"

    @model_validator(mode="after")
    def _levels_in_order(self) -> DriftGate:
        if self.block_at > self.review_at:
            raise wrong("policy.drift-levels", "what is blocked is reviewed as well: block_at is at most review_at")
        return self


class AllOfGate(Frozen):
    """Passes where every member passes, and fails where one fails."""

    id: GateId
    kind: Literal["all_of"]
    description: str = ""
    gates: tuple[Gate, ...]

    @field_validator("gates")
    @classmethod
    def _several(cls, gates: tuple[Gate, ...]) -> tuple[Gate, ...]:
        return _several_members(gates)

    @property
    def members(self) -> tuple[Gate, ...]:
        return self.gates


class AnyOfGate(Frozen):
    """Passes where one member passes, and fails where every one fails.

    Each member is tested at its alpha divided by their number, so that the chance of any false pass
    is at most the largest alpha among them (Bonferroni).
    """

    id: GateId
    kind: Literal["any_of"]
    description: str = ""
    gates: tuple[Gate, ...]

    @field_validator("gates")
    @classmethod
    def _several(cls, gates: tuple[Gate, ...]) -> tuple[Gate, ...]:
        return _several_members(gates)

    @property
    def members(self) -> tuple[Gate, ...]:
        return self.gates


class OnlyIfGate(Frozen):
    """Asks ``then`` of a candidate, unless ``condition`` fails: then the gate does not apply, and passes.

    The condition must not be a test, which could err; an inconclusive one counts as met.
    """

    id: GateId
    kind: Literal["only_if"]
    description: str = ""
    condition: Gate
    then: Gate

    @field_validator("condition")
    @classmethod
    def _deterministic(cls, condition: Gate) -> Gate:
        if not isinstance(condition, (IntegrityGate, CollapseGate, ContaminationGate, BudgetGate)):
            raise wrong(
                "policy.condition-kind",
                f"a condition must be an integrity, collapse, contamination or budget gate, not {condition.kind}",
            )
        return condition

    @property
    def members(self) -> tuple[Gate, ...]:
        return (self.condition, self.then)


LeafGate = EvalGate | IntegrityGate | CollapseGate | ContaminationGate | BudgetGate | DriftGate
CompositeGate = AllOfGate | AnyOfGate | OnlyIfGate
Gate = Annotated[
    EvalGate
    | IntegrityGate
    | CollapseGate
    | ContaminationGate
    | BudgetGate
    | DriftGate
    | AllOfGate
    | AnyOfGate
    | OnlyIfGate,
    Field(discriminator="kind"),
]
MAX_COMPOSITE_DEPTH = 3
"""How many composites may stand inside each other, the outermost included."""

AllOfGate.model_rebuild()
AnyOfGate.model_rebuild()
OnlyIfGate.model_rebuild()


def with_members(gate: Gate, at: tuple[str | int, ...]) -> Iterator[tuple[Gate, tuple[str | int, ...]]]:
    """The gate and all of its members, with where each stands in the file; ``at`` is where the gate does."""
    yield gate, at
    if isinstance(gate, (AllOfGate, AnyOfGate)):
        for index, member in enumerate(gate.gates):
            yield from with_members(member, (*at, "gates", index))
    elif isinstance(gate, OnlyIfGate):
        yield from with_members(gate.condition, (*at, "condition"))
        yield from with_members(gate.then, (*at, "then"))


def suites_of(gate: Gate) -> tuple[str, ...]:
    """The suites that the gate itself reads; a composite reads none, its members do."""
    if isinstance(gate, ContaminationGate):
        return gate.suites
    return (gate.suite,) if isinstance(gate, (EvalGate, CollapseGate)) else ()


def banks_of(gate: Gate) -> tuple[str, ...]:
    """The banks that the gate itself reads."""
    return (gate.bank,) if isinstance(gate, DriftGate) else ()


def depth_of(gate: Gate) -> int:
    """How many composites stand inside each other, ``gate`` included."""
    return 1 + max(depth_of(member) for member in gate.members) if isinstance(gate, CompositeGate) else 0


def _several_members(gates: tuple[Gate, ...]) -> tuple[Gate, ...]:
    if len(gates) < 2:
        raise wrong("policy.few-members", "a gate of gates needs at least two of them")
    return gates


def wrong(rule: str, message: str) -> PydanticCustomError:
    """A validator's refusal that carries its own rule; strict_yaml adds the position."""
    return PydanticCustomError(cast(Any, rule), cast(Any, message.replace("{", "{{").replace("}", "}}")))
