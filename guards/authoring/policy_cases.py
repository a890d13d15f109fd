"""Running a policy case: compact evidence, through the gates and the decision that real evidence takes.

``case_inputs`` builds what gates read, and ``run_case`` evaluates it with
:func:`guards.gates.evaluate.evaluate_gates` and :func:`guards.decision.decide`: there is no second
implementation of any gate here. Policy tests and the counterexamples of ``policy diff`` are cases.

Not covered: the store and its actions (who signed, what was sealed when), which a case only asserts
(``approved``, ``waived``); the suites' own scorers and generators, which a case stands in for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from guards.authoring.case_drift import case_drift_vectors
from guards.authoring.case_model import (
    Case,
    CaseEvidence,
    CaseFile,
    Compared,
    Expectation,
    Items,
    MetricEvidence,
    SharedRows,
    SuiteEvidence,
)
from guards.authoring.case_runs import DRAW_SEED, prompt_words, suite_reading, suite_runs
from guards.authoring.case_yaml import case_to_yaml
from guards.canonical import sha256_bytes
from guards.contamination import TrainingRow
from guards.decision import Decision, decide
from guards.evidence import EvidenceRun
from guards.gates.alpha import plan_of
from guards.gates.evaluate import evaluate_gates
from guards.gates.inputs import BudgetState, GateInputs, Role
from guards.gates.verdict import Verdict
from guards.manifest import CheckpointFacts
from guards.policy import Change, ResolvedPolicy, Waiver

__all__ = [
    "BuiltRuns",
    "Case",
    "CaseEvidence",
    "CaseFile",
    "CaseResult",
    "Compared",
    "Comparison",
    "Expectation",
    "Items",
    "MetricEvidence",
    "SharedRows",
    "SuiteEvidence",
    "case_inputs",
    "case_to_yaml",
    "run_case",
]

BuiltRuns = dict[tuple[object, ...], dict[Role, EvidenceRun]]
"""Runs of the cases of one policy, by what they were built from."""

_ROLES: tuple[Role, ...] = ("candidate", "champion", "root", "anchor")
CHECKPOINTS: dict[Role, str] = {role: sha256_bytes(f"policy case: {role}".encode()) for role in _ROLES}
_FACTS = CheckpointFacts(
    model_type="llama",
    architectures=("LlamaForCausalLM",),
    vocab_size=1000,
    n_parameters=1000,
    architecture_digest=sha256_bytes(b"policy case: architecture"),
    tensors_digest=sha256_bytes(b"policy case: tensors"),
    tokenizer_digest=sha256_bytes(b"policy case: tokenizer"),
    chat_template_digest=sha256_bytes(b"policy case: chat template"),
    generation_config_digest=sha256_bytes(b"policy case: generation config"),
    dtype="bfloat16",
)
_NO_SUCH_GATE = ("no verdict", "the policy has no such gate", "no verdict")
_ATTRIBUTE: dict[Change, str] = {
    "architecture": "architecture_digest",
    "tokenizer": "tokenizer_digest",
    "chat_template": "chat_template_digest",
    "generation_config": "generation_config_digest",
}


@dataclass(frozen=True)
class Comparison:
    """One expectation and what came. ``what`` is a gate's id, ``decision``, or ``rule of`` a gate.

    ``is_named``: the case names it, and does not merely expect it of all other gates.
    """

    what: str
    expected: str
    got: str
    reason: str
    is_named: bool = True

    @property
    def is_met(self) -> bool:
        return self.got == self.expected


@dataclass(frozen=True)
class CaseResult:
    """What came of a case, beside what should have come."""

    case: Case
    verdicts: tuple[Verdict, ...]
    decision: Decision
    comparisons: tuple[Comparison, ...]

    @property
    def mismatches(self) -> tuple[Comparison, ...]:
        return tuple(comparison for comparison in self.comparisons if not comparison.is_met)

    @property
    def is_met(self) -> bool:
        return not self.mismatches


def run_case(policy: ResolvedPolicy, case: Case, *, built: BuiltRuns | None = None) -> CaseResult:
    """Evaluate the case under ``policy``, and compare with what it expects.

    ``built`` saves time where many cases are run under one policy: the runs that they have in common
    are built once. Give an empty one to the first, and the same one to all.

    Evidence that no gate of ``policy`` reads is ignored; :func:`guards.authoring.policy_tests.check_case` says
    where a case has some. An expectation about a gate that the policy does not have is not met.

    Raises:
        ConfigError: as :func:`case_inputs`.
    """
    verdicts = evaluate_gates(case_inputs(policy, case, built=built))
    approvals_ok = case.approved or policy.policy.approvals.required == 0
    decision = decide(policy.policy, verdicts, approvals_ok=approvals_ok, waivers=_waivers(case))
    comparisons = tuple(_compare(case.expect, decision))
    return CaseResult(case=case, verdicts=decision.verdicts, decision=decision, comparisons=comparisons)


def case_inputs(policy: ResolvedPolicy, case: Case, *, built: BuiltRuns | None = None) -> GateInputs:
    """What the gates of ``policy`` would be given for the case's candidate; ``built`` as in :func:`run_case`.

    Raises:
        ConfigError: ``case.counts``, ``case.score-range``, ``case.unknown-member``, ``case.unknown-component``.
    """
    evidence = case.evidence
    checkpoints: dict[Role, str] = {role: CHECKPOINTS[role] for role in _ROLES if role not in evidence.missing}
    parent = next((bank.parent_digest for bank in policy.banks.values()), None)
    if parent is not None and "root" in checkpoints:
        checkpoints["root"] = parent  # a case is about the root that the bank is of
    runs = {
        (role, suite): run
        for suite in policy.suite_digests
        for role, run in _runs_of_suite(policy, suite, evidence, checkpoints, {} if built is None else built).items()
    }
    files: dict[Role, CheckpointFacts] = {}
    if "files" not in evidence.missing:
        files = {role: _facts(role, evidence.changed) for role in checkpoints}
    return GateInputs(
        policy=policy,
        look=case.look,
        earlier_looks=(plan_of(policy.policy),) * (case.look - 1),
        draw_seed_digest=DRAW_SEED,
        checkpoints=checkpoints,
        runs=runs,
        facts=files,
        training_rows=None if "training_rows" in evidence.missing else tuple(_training_rows(evidence)),
        holdout_reads={
            policy.suite_digests[suite]: evidence.holdout_reads.get(suite, case.look - 1)
            for suite in policy.policy.holdouts
        },
        drift_vectors=case_drift_vectors(policy, evidence),
        budget=None if "budget" in evidence.missing else BudgetState(**evidence.budget.model_dump()),
    )


def _runs_of_suite(
    policy: ResolvedPolicy, suite: str, evidence: CaseEvidence, checkpoints: Mapping[Role, str], built: BuiltRuns
) -> dict[Role, EvidenceRun]:
    reading = suite_reading(policy.policy, suite)
    if reading is None:
        return {}
    measured = evidence.suites.get(suite, SuiteEvidence())
    n_shared = sum(shared.rows for shared in evidence.shared if shared.suite == suite)
    key = (policy.digest, suite, measured.model_dump_json(), n_shared, tuple(checkpoints))
    if key not in built:
        built[key] = suite_runs(suite, policy.suite_digests[suite], measured, reading, checkpoints, n_shared)
    return built[key]


def _facts(role: Role, changed: tuple[Change, ...]) -> CheckpointFacts:
    if role != "candidate":
        return _FACTS
    other = sha256_bytes(b"policy case: changed")
    updates: dict[str, str] = {_ATTRIBUTE[change]: other for change in changed if change in _ATTRIBUTE}
    if "dtype" in changed:
        updates["dtype"] = "float32"
    return _FACTS.model_copy(update=updates)


def _training_rows(evidence: CaseEvidence) -> Iterator[TrainingRow]:
    yield TrainingRow(row_id="unshared", prompt="What a row of nobody else asks", answer="and what it answers")
    n_used: dict[str, int] = {}
    for shared in evidence.shared:
        for _ in range(shared.rows):
            number = n_used.get(shared.suite, 0)
            n_used[shared.suite] = number + 1
            words = prompt_words(shared.suite, number)
            prompt = " ".join(words if shared.words is None else ["before", *words[: shared.words], "and", "after"])
            yield TrainingRow(row_id=f"{shared.suite}-{number}", prompt=prompt, answer="An answer of its own")


def _waivers(case: Case) -> tuple[Waiver, ...]:
    return tuple(
        Waiver(
            candidate=CHECKPOINTS["candidate"],
            gate=gate,
            reason="the case says so",
            ticket="CASE",
            approvers=("somebody",),
            expires=datetime(9999, 1, 1, tzinfo=UTC),
        )
        for gate in case.waived
    )


def _compare(expect: Expectation, decision: Decision) -> Iterator[Comparison]:
    said = _said_by_gate(decision.verdicts)
    for gate, expected in expect.gates.items():
        got, reason, _ = said.get(gate, _NO_SUCH_GATE)
        yield Comparison(gate, expected, got, reason)
    for gate, expected in expect.rules.items():
        _, reason, rule = said.get(gate, _NO_SUCH_GATE)
        yield Comparison(f"rule of {gate}", expected, rule, reason)
    if expect.others == "pass":
        for verdict in decision.verdicts:
            if verdict.gate_id not in expect.gates:
                yield Comparison(verdict.gate_id, "pass", verdict.outcome, verdict.reason, is_named=False)
    if expect.decision is not None:
        yield Comparison("decision", expect.decision, decision.outcome, "; ".join(decision.reasons))


def _said_by_gate(verdicts: tuple[Verdict, ...]) -> dict[str, tuple[str, str, str]]:
    """(outcome, reason, rule) of each gate and each member of a composite; rule ``none`` where a test decided."""
    said = (one for verdict in verdicts for one in (verdict, *verdict.all_members()))
    return {one.gate_id: (one.outcome, one.reason, one.details.get("rule", "none")) for one in said}
