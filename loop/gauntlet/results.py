"""What the gauntlet found, model by model: the verdict of the drift gate, and what other scores would have said.

Every other score is held to the same level: blocked where its own conformal p is at most the gate's
``block_at``. So a table of them compares detection at one nominal false-block rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from guards.canonical import canonical_bytes, parse_json_strict, sha256_bytes
from guards.drift.assessment import p_value
from guards.drift.bank import DriftBank, Scoring
from guards.drift.components import DriftVector
from guards.errors import ConfigError, EvidenceError
from guards.evidence import Digest, Frozen
from guards.gates.drift import evaluate_drift_gate
from guards.gates.inputs import GateInputs
from guards.gates.verdict import Outcome
from guards.policy import DriftGate, ResolvedPolicy
from loop.drift.probe_spec import NO_DRAW
from loop.gauntlet.measured import MeasuredMember
from loop.gauntlet.scorings import ablations, baselines

DECLARED_BASELINE = "mean-kl"
"""Named before any test was opened: the one that McNemar's test compares the audit with."""


class ModelResult(Frozen):
    """One model. ``other_p`` are the p of baselines and ablations by name; None where a score cannot be had of it.

    ``dilution`` is how many harmless rows there were for one faulty row, retained refusals left out; None without
    faulty rows. ``behaviour`` are the outcomes of the policy's other gates by id, empty where they were not asked.
    """

    member_id: str
    role: Literal["control", "organism"]
    family: str
    sources: tuple[str, ...]
    dilution: float | None
    scale: float
    verified: bool
    reasons: tuple[str, ...]
    shown: float | None
    drift: Outcome
    rule: str
    p: float | None
    reason: str
    other_p: dict[str, float | None]
    behaviour: dict[str, Outcome] = Field(default_factory=dict)

    @property
    def passes_behaviour(self) -> bool | None:
        """Whether every behavioural gate passed; None where they were not asked."""
        return all(outcome == "pass" for outcome in self.behaviour.values()) if self.behaviour else None


class GauntletResults(Frozen):
    """``stairlock/gauntlet-results/v1``. ``n_missing`` models of the plan were not measured yet."""

    schema_: Literal["stairlock/gauntlet-results/v1"] = Field(alias="schema")
    policy_digest: Digest
    bank_digest: Digest
    n_bank: int
    n_bank_left_out: int
    block_at: float
    review_at: float
    n_missing: dict[str, int]
    models: tuple[ModelResult, ...]


def judge_all(
    policy: ResolvedPolicy,
    members: Sequence[MeasuredMember],
    n_missing: Mapping[str, int],
    behaviour: Mapping[str, Mapping[str, Outcome]] | None = None,
) -> GauntletResults:
    """Judge every member by the policy's drift gate, and by the other scores.

    Raises:
        ConfigError: ``gauntlet.no-drift-gate``, ``gauntlet.other-kit``.
    """
    gate, bank = _drift_gate(policy)
    _refuse_other_kit(bank, members)
    others = {**baselines(bank.kit), **ablations(bank.scoring)}
    return GauntletResults(
        schema="stairlock/gauntlet-results/v1",  # pyright: ignore[reportCallIssue]
        policy_digest=policy.digest,
        bank_digest=policy.resolved.banks[gate.bank],
        n_bank=len(bank.verified),
        n_bank_left_out=len(bank.members) - len(bank.verified),
        block_at=gate.block_at,
        review_at=gate.review_at,
        n_missing=dict(n_missing),
        models=tuple(
            _judge(policy, gate, bank, others, one, (behaviour or {}).get(one.member.member_id, {})) for one in members
        ),
    )


def write_results(path: Path, results: GauntletResults) -> None:
    """Write the results as canonical JSON."""
    path.write_bytes(canonical_bytes(results.model_dump(mode="json", by_alias=True)) + b"\n")


def read_results(path: Path) -> GauntletResults:
    """Read results.

    Raises:
        ConfigError: ``gauntlet.bad-results``.
    """
    try:
        return GauntletResults.model_validate(parse_json_strict(path.read_bytes(), source=str(path)))
    except (EvidenceError, ValidationError) as error:
        why = error.message if isinstance(error, EvidenceError) else error.errors()[0]["msg"]
        raise ConfigError(
            "gauntlet.bad-results", f"{path}: {why}", fix="make them again (stairlock gauntlet run)"
        ) from error


def _drift_gate(policy: ResolvedPolicy) -> tuple[DriftGate, DriftBank]:
    gates = [gate for gate in policy.policy.leaf_gates() if isinstance(gate, DriftGate)]
    if len(gates) != 1:
        raise ConfigError(
            "gauntlet.no-drift-gate",
            f"{policy.source} must have one drift gate to be tested",
            got=str(len(gates)),
            expected="1",
        )
    return gates[0], policy.banks[gates[0].bank]


def _refuse_other_kit(bank: DriftBank, members: Sequence[MeasuredMember]) -> None:
    """Each would be inconclusive, and a table of those would look like a gate that blocks nothing."""
    other = sorted({one.run.manifest.suite_digest for one in members} - {bank.kit.digest})
    if other:
        raise ConfigError(
            "gauntlet.other-kit",
            "models were measured with another kit than the policy's bank",
            got=other[0],
            expected=bank.kit.digest,
            fix="give the kit of that bank (--kit DIR), or name the bank of this kit in the policy",
        )


def _judge(
    policy: ResolvedPolicy,
    gate: DriftGate,
    bank: DriftBank,
    others: Mapping[str, Scoring],
    one: MeasuredMember,
    behaviour: Mapping[str, Outcome],
) -> ModelResult:
    inputs = GateInputs(
        policy=policy,
        look=1,
        draw_seed_digest=sha256_bytes(NO_DRAW),
        checkpoints={"candidate": one.run.manifest.checkpoint_digest, "root": bank.parent_digest},
        runs={("candidate", gate.bank): one.run},
    )
    outcome: Outcome
    try:
        verdict = evaluate_drift_gate(gate, inputs)
        outcome, p, reason = verdict.outcome, verdict.observed, verdict.reason
        rule = verdict.details.get("rule", "")
    except EvidenceError as error:  # as every gate: what cannot be judged is inconclusive
        outcome, p, reason, rule = "inconclusive", None, error.message, error.rule
    member = one.member
    return ModelResult(
        member_id=member.member_id,
        role="control" if member.role != "organism" else "organism",
        family=family_of(one),
        sources=member.sources,
        dilution=member.n_harmless / member.n_faulty if member.n_faulty else None,
        scale=member.scale,
        verified=one.is_verified,
        reasons=one.reasons,
        shown=one.measurement.shown,
        drift=outcome,
        rule=rule,
        p=p,
        reason=reason,
        other_p={name: _p_of(bank, scoring, one.vector) for name, scoring in others.items()},
        behaviour=dict(behaviour),
    )


def family_of(one: MeasuredMember) -> str:
    """The family of an organism; of a control its first source."""
    member = one.member
    if member.fault is not None:
        return member.fault.partition("/")[0]
    return member.edit.kind if member.edit is not None else member.sources[0]


def _p_of(bank: DriftBank, scoring: Scoring, vector: DriftVector) -> float | None:
    try:
        return float(p_value(bank.model_copy(update={"scoring": scoring}), vector))
    except EvidenceError:
        return None
