"""Policy tests: the cases that stand beside a policy, run, and whether they show each gate blocking.

``policies/tests/<name>.yaml`` holds the cases of ``policies/<name>.yaml``. A test file fails where

* an expectation of a case is not met;
* a case names a gate, suite, metric or cluster that the policy does not have, or evidence that no
  gate reads, which would test nothing;
* a gate has no case in which it blocks. Of a gate of gates this is asked of each part that alone can
  block: every member of an ``all_of``, the ``then`` of an ``only_if``; an ``any_of`` is one part, and
  blocks where every member does.

A case counts for a gate that it names, that read its evidence and did not pass it: a look without
alpha, a run that is missing or too many unscored items block whatever the gate claims, and show
nothing about it. Nor does a test that is open although the candidate scored no worse than what it is
compared with, as any test is on next to no items.

Not covered: whether the cases are the right ones.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from guards.authoring.case_runs import suite_reading
from guards.authoring.policy_cases import BuiltRuns, Case, CaseFile, CaseResult, SuiteEvidence, run_case
from guards.errors import ConfigError
from guards.gates.verdict import Verdict
from guards.policy import (
    AllOfGate,
    AnyOfGate,
    BudgetGate,
    ContaminationGate,
    DriftGate,
    EvalGate,
    Gate,
    IntegrityGate,
    LeafGate,
    OnlyIfGate,
    ResolvedPolicy,
    resolve_policy,
)
from guards.strict_yaml import PositionMap, YamlPath, load_yaml_with_positions, parse_yaml, read_text

POLICY_SCHEMA = "stairlock/policy/v1"
_COUNTS_NOTHING = "gate.unscored"


@dataclass(frozen=True)
class Problem:
    """Something that makes a test file fail; ``where`` is ``file:line``."""

    where: str
    rule: str
    message: str


@dataclass(frozen=True)
class TestedCase:
    """One case: where it stands, and what came of it. ``result`` is None where it could not be run."""

    where: str
    name: str
    result: CaseResult | None
    problems: tuple[Problem, ...]

    @property
    def is_met(self) -> bool:
        return not self.problems


@dataclass(frozen=True)
class PolicyTestReport:
    """One test file, run. ``problems`` are those of no single case."""

    file: Path
    policy: ResolvedPolicy
    cases: tuple[TestedCase, ...]
    problems: tuple[Problem, ...]

    @property
    def all_problems(self) -> tuple[Problem, ...]:
        return (*(problem for case in self.cases for problem in case.problems), *self.problems)

    @property
    def holds(self) -> bool:
        return not self.all_problems


def run_policy_tests(path: Path) -> PolicyTestReport:
    """Run a test file, or that of the policy at ``path``.

    Raises:
        ConfigError: what :func:`guards.strict_yaml.load_yaml` and :func:`guards.policy.resolve_policy`
            refuse; ``case.no-cases``, where a policy has no test file; ``case.other-policy``,
            where the file beside it tests another.
    """
    file = _case_file(path)
    cases, positions = load_yaml_with_positions(file, CaseFile)
    named = file.parent / cases.policy
    if file != path and named.resolve() != path.resolve():
        raise positions.refusal(
            "case.other-policy",
            positions.at("policy"),
            "this file stands beside one policy and tests another",
            got=cases.policy,
            expected=f"../{path.name}",
        )
    policy = resolve_policy(_without_detours(named) if file == path else path)
    built: BuiltRuns = {}
    tested = tuple(_test_case(policy, case, index, positions, built) for index, case in enumerate(cases.cases))
    problems = [*_repeated_names(cases.cases, positions), *_never_block(policy, tested)]
    return PolicyTestReport(file=file, policy=policy, cases=tested, problems=tuple(problems))


def check_case(policy: ResolvedPolicy, case: Case) -> Iterator[tuple[YamlPath, str, str]]:
    """What the case names and the policy does not have or read: (path inside the case, rule, message)."""
    gates = [gate.id for gate, _ in policy.policy.gates_with_paths()]
    for part in ("gates", "rules"):
        for gate in getattr(case.expect, part):
            if gate not in gates:
                yield ("expect", part, gate), "case.unknown-gate", _unknown("gate", gate, gates)
    with_verdict = [gate.id for gate in policy.policy.gates]
    for index, gate in enumerate(case.waived):
        if gate not in with_verdict:
            message = _unknown("gate", gate, with_verdict, "with a verdict of its own")
            yield ("waived", index), "case.unknown-gate", message
    for suite, evidence in case.evidence.suites.items():
        for path, rule, message in _check_suite(policy, suite, evidence):
            yield ("evidence", "suites", suite, *path), rule, message
    yield from _check_other_evidence(policy, case)


def _case_file(path: Path) -> Path:
    value, positions = parse_yaml(read_text(path), source=str(path))
    if not isinstance(value, dict) or value.get("schema") != POLICY_SCHEMA:
        return path
    beside = path.parent / "tests" / path.name
    if not beside.is_file():
        raise positions.refusal(
            "case.no-cases",
            positions.at(),
            "the policy has no cases",
            expected=str(beside),
            fix="write a case in which each gate blocks, and one in which all pass",
        )
    return beside


def _without_detours(path: Path) -> Path:
    """``policies/default.yaml`` for ``policies/tests/../default.yaml``, where that is the same file."""
    short = Path(os.path.normpath(path))
    return short if short.resolve() == path.resolve() else path


def _test_case(policy: ResolvedPolicy, case: Case, index: int, positions: PositionMap, built: BuiltRuns) -> TestedCase:
    where = _where(positions, ("cases", index))
    problems = [
        Problem(_where_key(positions, ("cases", index, *path)), rule, f"case {case.name!r}: {message}")
        for path, rule, message in check_case(policy, case)
    ]
    try:
        result = run_case(policy, case, built=built)
    except ConfigError as error:
        limits = f" (got {error.got})" * bool(error.got) + f" (expected {error.expected})" * bool(error.expected)
        message = f"case {case.name!r}: {error.message}{limits}"
        problem = Problem(_where(positions, ("cases", index, "evidence")), error.rule, message)
        return TestedCase(where, case.name, None, (*problems, problem))
    for comparison in result.mismatches:
        part, gate = "gates", comparison.what
        if gate.startswith("rule of "):
            part, gate = "rules", gate.removeprefix("rule of ")
        path = ("decision",) if gate == "decision" else (part, gate)
        message = (
            f"case {case.name!r}: {comparison.what}: expected {comparison.expected}, came {comparison.got}: "
            f"{comparison.reason}"
        )
        at = _where_key(positions, ("cases", index, "expect", *path))
        problems.append(Problem(at, "case.not-as-expected", message))
    return TestedCase(where, case.name, result, tuple(problems))


def _check_suite(policy: ResolvedPolicy, suite: str, evidence: SuiteEvidence) -> Iterator[tuple[YamlPath, str, str]]:
    if suite not in policy.policy.suites:
        yield (), "case.unknown-suite", _unknown("suite", suite, policy.policy.suites)
        return
    reading = suite_reading(policy.policy, suite)
    if reading is None:
        yield (), "case.unread", f"no gate reads the suite {suite!r}"
        return
    groups = [((), evidence), *((("clusters", name), group) for name, group in evidence.clusters.items())]
    for path, group in groups:
        for metric, found in group.metrics.items():
            here = (*path, "metrics", metric)
            if metric not in reading.metrics:
                yield (
                    here,
                    "case.unknown-metric",
                    _unknown("metric", metric, reading.metrics, "that a gate reads"),
                )
                continue
            for role in ("root", "anchor"):
                if getattr(found, role) is not None and (metric, role) not in reading.against:
                    yield (*here, role), "case.unread", f"no gate compares {metric!r} with the {role}"
    for cluster in evidence.clusters:
        if cluster not in reading.clusters:
            message = _unknown("cluster", cluster, reading.clusters, "that a gate names")
            yield ("clusters", cluster), "case.unknown-cluster", message
    if evidence.outputs != SuiteEvidence().outputs and not reading.has_outputs:
        yield ("outputs",), "case.unread", f"no collapse gate reads the outputs of {suite!r}"
    if evidence.items_per_source > 1 and not (reading.tags or reading.is_clustered):
        yield ("items_per_source",), "case.unread", f"no gate groups the items of {suite!r} by source"


def _check_other_evidence(policy: ResolvedPolicy, case: Case) -> Iterator[tuple[YamlPath, str, str]]:
    gates, evidence, nothing = list(policy.policy.leaf_gates()), case.evidence, Case.model_fields["evidence"].default
    contaminated = {suite for gate in gates if isinstance(gate, ContaminationGate) for suite in gate.suites}
    has_integrity = any(isinstance(gate, IntegrityGate) for gate in gates)
    has_budget = any(isinstance(gate, BudgetGate) for gate in gates)
    if evidence.changed and not has_integrity:
        yield ("evidence", "changed"), "case.unread", "no integrity gate reads what changed"
    if evidence.budget != nothing.budget and not has_budget:
        yield ("evidence", "budget"), "case.unread", "no budget gate reads what was used"
    for index, shared in enumerate(evidence.shared):
        if shared.suite not in contaminated:
            message = _unknown("suite", shared.suite, contaminated, "that a contamination gate reads")
            yield ("evidence", "shared", index, "suite"), "case.unknown-suite", message
    for suite in evidence.holdout_reads:
        if suite not in policy.policy.holdouts:
            message = _unknown("holdout", suite, policy.policy.holdouts)
            yield ("evidence", "holdout_reads", suite), "case.unknown-suite", message
    drifts = {gate.bank for gate in gates if isinstance(gate, DriftGate)}
    for bank in evidence.drift:
        if bank not in drifts:
            message = _unknown("bank", bank, drifts, "that a drift gate reads")
            yield ("evidence", "drift", bank), "case.unknown-bank", message
    for index, what in enumerate(evidence.missing):
        reads = {"files": has_integrity, "training_rows": bool(contaminated), "budget": has_budget}
        if not reads.get(what, True):
            yield ("evidence", "missing", index), "case.unread", f"no gate reads {what!r}"


def _repeated_names(cases: Sequence[Case], positions: PositionMap) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, case in enumerate(cases):
        if case.name in first:
            line = positions.at("cases", first[case.name]).line
            where = _where(positions, ("cases", index, "name"))
            yield Problem(where, "case.repeated-name", f"case {case.name!r} is already on line {line}")
        first.setdefault(case.name, index)


def conjuncts_of(gate: Gate) -> Iterator[Gate]:
    """The parts of a gate that can each keep a candidate from passing it; a gate without parts is its own."""
    match gate:
        case AllOfGate():
            for member in gate.gates:
                yield from conjuncts_of(member)
        case OnlyIfGate():
            yield from conjuncts_of(gate.then)
        case _:
            yield gate


def _never_block(policy: ResolvedPolicy, tested: Iterable[TestedCase]) -> Iterator[Problem]:
    """One problem for every conjunct that no case shows blocking."""
    shown = {gate for case in tested if case.result is not None for gate in _shown_to_block(policy, case.result)}
    for gate in (part for whole in policy.policy.gates for part in conjuncts_of(whole)):
        if gate.id not in shown:
            where = f"{policy.source}:{policy.gate_lines.get(gate.id, 1)}"
            message = (
                f"no case shows the gate {gate.id!r} blocking by what it reads: write one that names it under "
                "'expect: {gates: ...}' as fail, or as inconclusive where it scores worse than its reference"
            )
            yield Problem(where, "case.never-blocks", message)


def _shown_to_block(policy: ResolvedPolicy, result: CaseResult) -> Iterator[str]:
    verdicts = {one.gate_id: one for verdict in result.verdicts for one in (verdict, *verdict.all_members())}
    for whole in policy.policy.gates:
        for gate in _blocking(whole, verdicts):
            expected = result.case.expect.gates.get(gate.id)
            if expected in ("fail", "inconclusive") and expected == verdicts[gate.id].outcome:
                yield gate.id


def _blocking(gate: Gate, verdicts: Mapping[str, Verdict]) -> Iterator[Gate]:
    """The conjuncts of ``gate`` that block it by what they read."""
    match gate:
        case AllOfGate():
            for member in gate.gates:
                yield from _blocking(member, verdicts)
        case OnlyIfGate():
            if verdicts[gate.condition.id].outcome != "fail":
                yield from _blocking(gate.then, verdicts)
        case AnyOfGate():
            if all(any(_blocking(member, verdicts)) for member in gate.gates):
                yield gate
        case _:
            if _is_finding(gate, verdicts[gate.id]):
                yield gate


def _is_finding(gate: LeafGate, verdict: Verdict) -> bool:
    """True if the gate read its evidence and did not pass it."""
    rule = verdict.details.get("rule")
    if verdict.outcome == "fail":
        return rule != _COUNTS_NOTHING
    if verdict.outcome == "pass" or rule is not None or verdict.observed is None or not isinstance(gate, EvalGate):
        return False
    as_good = 0.0 if gate.level is None else gate.level
    return verdict.observed > as_good if gate.claim == "at_most" else verdict.observed < as_good


def _unknown(what: str, got: str, known: Iterable[str], which: str = "") -> str:
    names = sorted(known)
    near = difflib.get_close_matches(got, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"the policy has no {what} {got!r}{' ' * bool(which)}{which}{hint} (known: {', '.join(names) or 'none'})"


def _where(positions: PositionMap, path: YamlPath) -> str:
    return f"{positions.source}:{positions.at(*path).line}"


def _where_key(positions: PositionMap, path: YamlPath) -> str:
    return f"{positions.source}:{positions.of_key(*path).line}"
