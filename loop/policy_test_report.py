"""What a policy test found, as lines for people and as JSON: what each case expected, and what came."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from guards.authoring.policy_cases import Comparison
from guards.authoring.policy_tests import PolicyTestReport, TestedCase, conjuncts_of


def report_lines(report: PolicyTestReport) -> Iterator[str]:
    """One block for every case, then what is wrong, each with its file and line."""
    policy = report.policy
    yield f"{report.file}: policy {policy.policy.name}, {policy.digest}"
    for case in report.cases:
        yield f"{'ok  ' if case.is_met else 'FAIL'}  {case.where}  {case.name}"
        yield from _comparison_lines(case)
    for problem in report.all_problems:
        yield f"{problem.where}: [{problem.rule}] {problem.message}"
    n_met = sum(case.is_met for case in report.cases)
    n_gates = sum(1 for gate in policy.policy.gates for _ in conjuncts_of(gate))
    n_never = sum(problem.rule == "case.never-blocks" for problem in report.problems)
    shown = f"{n_gates - n_never} of {_gates(n_gates)}"
    yield f"{n_met} of {len(report.cases)} cases came as expected; blocking was shown for {shown}"


def report_json(report: PolicyTestReport) -> dict[str, Any]:
    """The same, for programs."""
    return {
        "file": str(report.file),
        "policy": report.policy.policy.name,
        "digest": report.policy.digest,
        "holds": report.holds,
        "cases": [
            {
                "name": case.name,
                "where": case.where,
                "holds": case.is_met,
                "compared": [{**asdict(one), "is_met": one.is_met} for one in _comparisons(case)],
            }
            for case in report.cases
        ],
        "problems": [asdict(problem) for problem in report.all_problems],
    }


def _comparisons(case: TestedCase) -> tuple[Comparison, ...]:
    return () if case.result is None else case.result.comparisons


def _comparison_lines(case: TestedCase) -> Iterator[str]:
    others = 0
    for one in _comparisons(case):
        if one.is_met and not one.is_named:
            others += 1
            continue
        # What the decision and a rule rest on is said at their gates.
        is_gate = one.what != "decision" and not one.what.startswith("rule of ")
        reason = f": {one.reason}" if one.reason and (is_gate or not one.is_met) else ""
        yield f"        {one.what}: expected {one.expected}, came {one.got}{reason}"
    if others:
        yield f"        {_gates(others, 'other ')}: expected pass, came pass"


def _gates(n: int, which: str = "") -> str:
    return f"{n} {which}gate{'' if n == 1 else 's'}"
