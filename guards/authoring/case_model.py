"""Policy cases as data: compact evidence about one imagined candidate, and what its gates should say.

A case says only what differs. What it leaves out is "as the champion, and all passed": every item
scored, nothing changed, outputs alike, no training row shared, the budget untouched, the first look.

The models say what may be written. ``guards.authoring.policy_cases`` turns it into evidence, and checks that
a policy reads what a case writes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import Field, FiniteFloat, model_validator
from pydantic_core import PydanticCustomError

from guards.evidence import Frozen
from guards.policy import Change, GateId, Name

ExpectedVerdict = Literal["pass", "fail", "inconclusive"]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Difference = FiniteFloat | Annotated[tuple[FiniteFloat, ...], Field(min_length=1)]


class Compared(Frozen):
    """How the candidate compares with the root or the anchor, where that is not as with the champion.

    ``gains`` and ``losses`` count items of a 0/1 metric; ``difference`` is of any other metric.
    """

    gains: Count = 0
    losses: Count = 0
    difference: Difference | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Compared:
        if self.difference is not None and (self.gains or self.losses):
            raise _wrong("a metric has gains and losses, or a difference, and not both")
        return self


class MetricEvidence(Frozen):
    """The outcomes of one metric, candidate against champion.

    A 0/1 metric: ``gains`` items only the candidate has, ``losses`` only the champion, ``both`` both,
    and the other scored items neither has. Without ``both`` it is all that are left. ``successes``
    may be written in its place: how many items the candidate has, gains included.

    Any other metric: ``difference``, candidate minus champion, for every item, or a list of them that
    is repeated; ``reference`` is the champion's score on every item (default: 0 where a gate declares
    a scale, else 1).
    """

    gains: Count = 0
    losses: Count = 0
    both: Count | None = None
    successes: Count | None = None
    difference: Difference | None = None
    reference: FiniteFloat | None = None
    root: Compared | None = None
    anchor: Compared | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> MetricEvidence:
        has_counts = self.gains or self.losses or self.both is not None or self.successes is not None
        if has_counts and (self.difference is not None or self.reference is not None):
            raise _wrong("a metric has gains, losses, both or successes, or else a difference; not both")
        if self.both is not None and self.successes is not None:
            raise _wrong("'both' and 'successes' say the same: write one of them")
        if self.successes is not None and self.successes < self.gains:
            raise _wrong("'successes' counts the gains too, so it cannot be below them")
        return self


class Items(Frozen):
    """A group of items. ``unscored`` of the candidate, and ``reference_unscored`` of whatever it is compared with.

    ``n`` is how many items there are (default: 240, or what the gates need if that is more); the
    unscored ones are among them, and belong to no outcome of a metric.
    """

    n: Annotated[int, Field(ge=1, le=10_000)] | None = None
    unscored: Count = 0
    reference_unscored: Count = 0
    metrics: dict[Name, MetricEvidence] = Field(default_factory=dict)


class Outputs(Frozen):
    """The candidate's outputs as ratios to the reference's, as a collapse gate measures them.

    Distinct outputs and words come as near as whole numbers allow, and never below what is written.
    """

    distinct_share: float = Field(default=1.0, gt=0.0, le=1.0)
    entropy_ratio: float = Field(default=1.0, ge=0.2, le=1.0)
    length_ratio: float = Field(default=1.0, ge=0.0, le=100.0)


Fault = Literal["missing", "partial", "other-suite", "other-draw", "other-checkpoint", "other-items", "other-engine"]


class SuiteEvidence(Items):
    """One suite. Items outside the clusters that gates name are described here, the others in ``clusters``.

    ``items_per_source`` items in a row share a source, which matters to gates with ``group_by``.
    ``fault`` is something wrong with the candidate's evidence as a whole.
    """

    clusters: dict[Annotated[str, Field(min_length=1)], Items] = Field(default_factory=dict)
    items_per_source: int = Field(default=1, ge=1, le=1000)
    outputs: Outputs = Outputs()
    fault: Fault | None = None


class DriftEvidence(Frozen):
    """How the candidate drifted, in the components of a bank's kit. What is left out is as the bank's median.

    ``like``: the member of the bank that it drifted as. ``components``: the values that differ from that.
    ``triggers: unsupported``: its training rows could not be searched. ``fault: missing``: nobody measured it.
    """

    like: Annotated[str, Field(min_length=1)] | None = None
    components: dict[Annotated[str, Field(min_length=1)], FiniteFloat] = Field(default_factory=dict)
    triggers: Literal["supported", "unsupported"] = "supported"
    fault: Literal["missing"] | None = None


class SharedRows(Frozen):
    """Training rows that equal an item of ``suite``, or share ``words`` words in a row with one."""

    suite: Name
    rows: int = Field(default=1, ge=1, le=1000)
    words: int | None = Field(default=None, ge=1, le=60)


class BudgetUsed(Frozen):
    """What the loop has used, this candidate included."""

    cycles_without_person: Count = 1
    cost_s: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)
    tokens_trained: int = Field(default=1, ge=0)


class CaseEvidence(Frozen):
    """Evidence about one candidate, as far as it differs from "as the champion, and all passed".

    ``changed``: what differs in the candidate's files. ``missing``: what is not known at all.
    ``holdout_reads``: how often a suite was read before, where the policy declares it a holdout.
    ``drift``: how the candidate drifted, by bank.
    """

    suites: dict[Name, SuiteEvidence] = Field(default_factory=dict)
    changed: tuple[Change, ...] = ()
    shared: tuple[SharedRows, ...] = ()
    budget: BudgetUsed = BudgetUsed()
    holdout_reads: dict[Name, Count] = Field(default_factory=dict)
    drift: dict[Name, DriftEvidence] = Field(default_factory=dict)
    missing: tuple[Literal["files", "training_rows", "budget", "root", "anchor"], ...] = ()


class Expectation(Frozen):
    """What should come out. Gates that are not named must pass, unless ``others`` says ``any``.

    ``rules`` names, for some gates, the rule that their verdict must rest on (``gate.unscored``), so
    that a case cannot hold for another reason than it was written for. Members of composite gates
    may be named, too.
    """

    decision: Literal["promote", "hold", "reject"] | None = None
    gates: dict[GateId, ExpectedVerdict] = Field(default_factory=dict)
    rules: dict[GateId, str] = Field(default_factory=dict)
    others: Literal["pass", "any"] = "pass"


class Case(Frozen):
    """One imagined candidate. ``look`` counts from 1; ``approved``: everybody who must sign has signed.

    ``waived`` names inconclusive gates that a live waiver covers.
    """

    name: str = Field(min_length=1, max_length=200)
    description: str = ""
    look: int = Field(default=1, ge=1, le=10_000)
    approved: bool = False
    waived: tuple[GateId, ...] = ()
    evidence: CaseEvidence = CaseEvidence()
    expect: Expectation


class CaseFile(Frozen):
    """``policies/tests/<name>.yaml``: the cases that stand beside one policy."""

    schema_: Literal["stairlock/policy-test/v1"] = Field(alias="schema")
    policy: str = Field(min_length=1)
    cases: tuple[Case, ...] = Field(min_length=1)


def _wrong(message: str) -> PydanticCustomError:
    return PydanticCustomError(cast(Any, "case.evidence-shape"), cast(Any, message))
