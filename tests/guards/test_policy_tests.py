"""Policy tests: what makes a case file fail, with its line; and that the shipped cases notice a changed policy."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guards.authoring.policy_cases import CaseFile, case_inputs
from guards.authoring.policy_tests import PolicyTestReport, run_policy_tests
from guards.errors import ConfigError
from guards.gates.evaluate import evaluate_gates
from guards.policy import EvalGate, Gate, ResolvedPolicy, resolve_policy
from guards.strict_yaml import load_yaml
from tests.gate_world import EVAL_GATE, make_policy

REPOSITORY = Path(__file__).resolve().parents[2]
POLICIES = REPOSITORY / "policies"
SHIPPED = ["default", "sandbox", "checkpoint", "root"]
INTEGRITY: dict[str, Any] = {"id": "integrity", "kind": "integrity", "against": "champion"}
BUDGET: dict[str, Any] = {"id": "budget", "kind": "budget", "max_cycles_without_person": 3, "max_cost_s": 100}
HEAD = "schema: stairlock/policy-test/v1\npolicy: ../policy.yaml\ncases:\n"
BLOCKS = """\
- name: worse
  evidence: {suites: {refusal: {metrics: {refused: {losses: 100}}}}}
  expect: {decision: reject, gates: {refusal-holds: fail}}
"""
GOOD = """\
- name: good
  expect: {decision: hold}
"""


def run_on(tmp_path: Path, cases: str, *gates: dict[str, Any]) -> PolicyTestReport:
    make_policy(tmp_path, *(gates or (EVAL_GATE,)))
    file = tmp_path / "tests" / "policy.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(HEAD + cases)
    return run_policy_tests(file)


def found(report: PolicyTestReport) -> list[tuple[str, str]]:
    """(line, rule) of every problem."""
    return [(problem.where.rpartition(":")[2], problem.rule) for problem in report.all_problems]


# ---------------------------------------------------------------------------------------------
# What makes a file fail
# ---------------------------------------------------------------------------------------------


def test_cases_that_come_as_expected_hold(tmp_path: Path) -> None:
    report = run_on(tmp_path, GOOD + BLOCKS)
    assert report.holds and [case.name for case in report.cases] == ["good", "worse"]
    assert [case.where.rpartition(":")[2] for case in report.cases] == ["4", "6"]


def test_an_expectation_that_is_not_met_is_told_with_its_line_and_the_reason(tmp_path: Path) -> None:
    report = run_on(tmp_path, GOOD + BLOCKS.replace("losses: 100", "losses: 1"))
    assert found(report) == [("8", "case.not-as-expected")] * 2 + [("13", "case.never-blocks")]
    assert (
        "expected fail, came pass: refused minus the champion's must be no lower than" in report.all_problems[0].message
    )
    assert report.all_problems[0].where == f"{tmp_path / 'tests' / 'policy.yaml'}:8"
    assert not report.holds and [case.is_met for case in report.cases] == [True, False]


def test_a_gate_that_is_not_named_must_pass(tmp_path: Path) -> None:
    report = run_on(tmp_path, BLOCKS + BLOCKS.replace("worse", "again").replace(", gates: {refusal-holds: fail}", ""))
    assert found(report) == [("9", "case.not-as-expected")]


@pytest.mark.parametrize(
    ("case", "line", "rule", "says"),
    [
        ("expect: {gates: {refusal-hold: pass}}", "8", "case.unknown-gate", "did you mean 'refusal-holds'?"),
        ("expect: {rules: {nothing: none}}", "8", "case.unknown-gate", "no gate 'nothing'"),
        ("waived: [elsewhere]\n  expect: {}", "8", "case.unknown-gate", "no gate 'elsewhere'"),
        ("evidence: {suites: {refusl: {}}}\n  expect: {}", "8", "case.unknown-suite", "did you mean 'refusal'?"),
        ("evidence: {suites: {tasks: {}}}\n  expect: {}", "8", "case.unread", "no gate reads the suite 'tasks'"),
        (
            "evidence: {suites: {refusal: {metrics: {refusd: {}}}}}\n  expect: {}",
            "8",
            "case.unknown-metric",
            "did you mean 'refused'?",
        ),
        (
            "evidence:\n    suites:\n      refusal:\n        clusters: {weapons: {n: 3}}\n  expect: {}",
            "11",
            "case.unknown-cluster",
            "no cluster 'weapons'",
        ),
        (
            "evidence:\n    suites:\n      refusal:\n        metrics:\n          refused: {anchor: {losses: 1}}\n"
            "  expect: {}",
            "12",
            "case.unread",
            "with the anchor",
        ),
        ("evidence: {suites: {refusal: {outputs: {length_ratio: 2.0}}}}\n  expect: {}", "8", "case.unread", "collapse"),
        ("evidence: {suites: {refusal: {items_per_source: 2}}}\n  expect: {}", "8", "case.unread", "by source"),
        ("evidence: {changed: [tokenizer]}\n  expect: {}", "8", "case.unread", "integrity"),
        ("evidence: {budget: {cost_s: 5}}\n  expect: {}", "8", "case.unread", "budget"),
        ("evidence: {shared: [{suite: refusal}]}\n  expect: {}", "8", "case.unknown-suite", "contamination"),
        ("evidence: {holdout_reads: {refusal: 1}}\n  expect: {}", "8", "case.unknown-suite", "no holdout 'refusal'"),
        ("evidence: {missing: [files]}\n  expect: {}", "8", "case.unread", "no gate reads 'files'"),
        ("evidence: {suites: {refusal: {unscored: 241}}}\n  expect: {}", "8", "case.counts", "at most 240"),
    ],
)
def test_names_that_the_policy_does_not_have_and_evidence_that_no_gate_reads(
    tmp_path: Path, case: str, line: str, rule: str, says: str
) -> None:
    report = run_on(tmp_path, BLOCKS + f"- name: odd\n  {case}\n")
    problems = [problem for problem in report.all_problems if problem.rule == rule]
    assert len(problems) == 1 and problems[0].where.endswith(f":{line}") and says in problems[0].message
    assert problems[0].message.startswith("case 'odd': ")


def test_two_cases_of_one_name(tmp_path: Path) -> None:
    assert found(run_on(tmp_path, BLOCKS + GOOD + GOOD)) == [("9", "case.repeated-name")]


def test_an_unknown_key_is_refused_at_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"policy\.yaml:5:33: .*did you mean 'metrics'") as refused:
        run_on(tmp_path, BLOCKS.replace("metrics", "metrcs"))
    assert refused.value.rule == "yaml.unknown-key"


# ---------------------------------------------------------------------------------------------
# A gate must block in some case
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [
        "evidence: {suites: {refusal: {unscored: 50}}}\n  expect: {gates: {refusal-holds: fail}}",
        "evidence: {suites: {refusal: {fault: missing}}}\n  expect: {gates: {refusal-holds: inconclusive}}",
        "look: 2\n  expect: {gates: {refusal-holds: inconclusive}}",
        "evidence: {suites: {refusal: {metrics: {refused: {losses: 100}}}}}\n  expect: {others: any}",
        "evidence: {suites: {refusal: {metrics: {refused: {losses: 100}}}}}\n"
        "  expect: {gates: {refusal-holds: inconclusive}}",
    ],
    ids=["unscored", "missing", "late", "unnamed", "not-as-expected"],
)
def test_what_does_not_show_a_gate_blocking(tmp_path: Path, case: str) -> None:
    report = run_on(tmp_path, GOOD + f"- name: blocked\n  {case}\n")
    problem = report.all_problems[-1]
    assert problem.rule == "case.never-blocks" and "'refusal-holds'" in problem.message
    assert problem.where == f"{report.policy.source}:{report.policy.gate_lines['refusal-holds']}"


def test_an_inconclusive_test_shows_a_gate_blocking(tmp_path: Path) -> None:
    case = "evidence: {suites: {refusal: {metrics: {refused: {losses: 20}}}}}\n"
    report = run_on(tmp_path, f"- name: blocked\n  {case}  expect: {{gates: {{refusal-holds: inconclusive}}}}\n")
    assert report.holds


def test_every_gate_needs_a_case_of_its_own(tmp_path: Path) -> None:
    report = run_on(tmp_path, BLOCKS, EVAL_GATE, INTEGRITY, BUDGET)
    assert [problem.message.split("'")[1] for problem in report.problems] == ["integrity", "budget"]


def never_blocking(report: PolicyTestReport) -> list[str]:
    """The gates of which no case shows that they block; every case must come as expected."""
    assert [problem.message for case in report.cases for problem in case.problems] == []
    assert {problem.rule for problem in report.problems} <= {"case.never-blocks"}
    return [problem.message.split("'")[1] for problem in report.problems]


BROKE = """\
- name: broke
  evidence: {budget: {cost_s: 101}}
  expect: {gates: {whole: fail, budget: fail}}
"""
CHANGED = """\
- name: changed
  evidence: {changed: [tokenizer]}
  expect: {gates: {whole: fail, integrity: fail}}
"""
WORSE = BLOCKS.replace("{refusal-holds: fail}", "{whole: fail, refusal-holds: fail}")


def test_every_member_of_an_all_of_needs_a_case_that_names_it(tmp_path: Path) -> None:
    whole = {"id": "whole", "kind": "all_of", "gates": [EVAL_GATE, INTEGRITY, BUDGET]}
    assert never_blocking(run_on(tmp_path, BROKE, whole)) == ["refusal-holds", "integrity"]
    assert never_blocking(run_on(tmp_path, BROKE.replace(", budget: fail", ""), whole)) == [
        "refusal-holds",
        "integrity",
        "budget",
    ]
    assert never_blocking(run_on(tmp_path, BROKE + CHANGED + WORSE, whole)) == []
    report = run_on(tmp_path, BROKE + CHANGED, whole)
    assert report.problems[0].where == f"{report.policy.source}:{report.policy.gate_lines['refusal-holds']}"


def test_an_all_of_in_an_all_of_is_its_members_too(tmp_path: Path) -> None:
    inner = {"id": "inner", "kind": "all_of", "gates": [INTEGRITY, BUDGET]}
    whole = {"id": "whole", "kind": "all_of", "gates": [EVAL_GATE, inner]}
    assert never_blocking(run_on(tmp_path, BROKE + WORSE, whole)) == ["integrity"]


def test_an_any_of_blocks_where_every_member_does_by_what_it_reads(tmp_path: Path) -> None:
    whole = {"id": "whole", "kind": "any_of", "gates": [EVAL_GATE, BUDGET]}
    case = "- name: all\n  evidence: {suites: {refusal: %s}, budget: {cost_s: 101}}\n  expect: {gates: {whole: %s}}\n"
    assert never_blocking(run_on(tmp_path, case % ("{metrics: {refused: {losses: 100}}}", "fail"), whole)) == []
    assert never_blocking(run_on(tmp_path, case % ("{fault: missing}", "inconclusive"), whole)) == ["whole"]
    assert never_blocking(run_on(tmp_path, case % ("{unscored: 50}", "fail"), whole)) == ["whole"]


def test_an_only_if_blocks_by_what_it_asks_where_it_applies(tmp_path: Path) -> None:
    whole = {"id": "whole", "kind": "only_if", "condition": INTEGRITY, "then": BUDGET}
    assert never_blocking(run_on(tmp_path, BROKE, whole)) == []
    exempt = CHANGED.replace("[tokenizer]", "[tokenizer], budget: {cost_s: 101}")
    exempt = exempt.replace("whole: fail, integrity: fail", "whole: pass, integrity: fail, budget: fail")
    assert never_blocking(run_on(tmp_path, exempt, whole)) == ["budget"]


@pytest.mark.parametrize(
    ("gate", "counts", "outcome", "shows"),
    [
        ({"margin": 0.99, "min_items": 1}, "n: 1", "inconclusive", False),
        ({"min_items": 1}, "n: 10, metrics: {refused: {gains: 1}}", "inconclusive", False),
        ({"margin": 0.99, "min_items": 1}, "n: 1, metrics: {refused: {losses: 1}}", "fail", True),
        ({}, "n: 240, metrics: {refused: {losses: 20}}", "inconclusive", True),
        ({"claim": "superior_by", "margin": 0.0}, "metrics: {refused: {gains: 2, losses: 1}}", "inconclusive", False),
        ({"claim": "superior_by", "margin": 0.0}, "metrics: {refused: {gains: 1, losses: 1}}", "fail", True),
        (
            {"claim": "at_least", "level": 0.7, "margin": None, "against": None},
            "n: 100, metrics: {refused: {successes: 71}}",
            "inconclusive",
            False,
        ),
    ],
)
def test_a_test_that_is_open_shows_a_gate_blocking_only_where_the_estimate_is_worse(
    tmp_path: Path, gate: dict[str, Any], counts: str, outcome: str, shows: bool
) -> None:
    case = f"- name: one\n  evidence: {{suites: {{refusal: {{{counts}}}}}}}\n"
    case += f"  expect: {{gates: {{refusal-holds: {outcome}}}}}\n"
    report = run_on(tmp_path, case, {**EVAL_GATE, **gate})
    assert never_blocking(report) == [] if shows else never_blocking(report) == ["refusal-holds"]


# ---------------------------------------------------------------------------------------------
# Which file
# ---------------------------------------------------------------------------------------------


def test_a_policy_stands_for_the_cases_beside_it(tmp_path: Path) -> None:
    report = run_on(tmp_path, BLOCKS)
    assert run_policy_tests(tmp_path / "policy.yaml").file == report.file


def test_a_policy_without_cases_is_refused(tmp_path: Path) -> None:
    policy = make_policy(tmp_path, EVAL_GATE)
    with pytest.raises(ConfigError) as refused:
        run_policy_tests(policy.source)
    assert refused.value.rule == "case.no-cases"


def test_cases_beside_a_policy_that_test_another_are_refused(tmp_path: Path) -> None:
    report = run_on(tmp_path, BLOCKS)
    (tmp_path / "other.yaml").write_text((tmp_path / "policy.yaml").read_text())
    shutil.copy(report.file, tmp_path / "tests" / "other.yaml")
    with pytest.raises(ConfigError) as refused:
        run_policy_tests(tmp_path / "other.yaml")
    assert refused.value.rule == "case.other-policy"


# ---------------------------------------------------------------------------------------------
# The shipped cases
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_cases_hold(name: str) -> None:
    report = run_policy_tests(POLICIES / f"{name}.yaml")
    assert [f"{problem.where}: {problem.message}" for problem in report.all_problems] == []


def thresholds(policy: ResolvedPolicy) -> Iterator[tuple[Gate, str, dict[str, Any]]]:
    """(gate, field, a slightly looser value of it) of everything that a gate of the policy asks for."""
    for gate in policy.policy.gates:
        if isinstance(gate, EvalGate):
            if gate.claim == "superior_by":
                yield gate, "claim", {"claim": "non_inferior_within", "margin": 0.01}
            elif gate.margin is not None:
                yield gate, "margin", {"margin": gate.margin + 0.006}
            elif gate.level is not None:
                yield gate, "level", {"level": gate.level - 0.006}
            yield gate, "max_unscored", {"max_unscored": 0.2}
            continue
        for field, value in gate.model_dump().items():
            if field.startswith("min_") and field != "min_items" and value is not None:
                yield gate, field, {field: value * 0.95}
            elif field.startswith("max_") and value is not None:
                yield gate, field, {field: value * 1.05 if isinstance(value, float) else value + 1}
            elif field == "allow_changes":
                yield gate, field, {field: ("tokenizer",)}
            elif field == "ngram":
                yield gate, field, {field: 14}


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_cases_notice_every_threshold_that_is_loosened(name: str) -> None:
    """Each gate alone, under the cases that expect it to block: one must come otherwise."""
    policy = resolve_policy(POLICIES / f"{name}.yaml")
    cases = load_yaml(POLICIES / "tests" / f"{name}.yaml", CaseFile).cases
    n_changes, unnoticed = 0, set[str]()
    for gate, field, changes in thresholds(policy):
        looser = only(policy, gate.model_validate({**gate.model_dump(), **changes}))
        blocking = [case for case in cases if gate.id in case.expect.gates]
        came = [(case.expect.gates[gate.id], evaluate_gates(case_inputs(looser, case))[0].outcome) for case in blocking]
        n_changes += 1
        if all(expected == got for expected, got in came):
            unnoticed.add(f"{gate.id}.{field}")
    assert n_changes > len(policy.policy.gates)
    # How many items may be unscored is shown on one suite; the others have the same share.
    assert {one for one in unnoticed if not one.endswith(".max_unscored")} == set()
    assert "refusal-floor.max_unscored" not in unnoticed and "refusal-holds.max_unscored" not in unnoticed


def only(policy: ResolvedPolicy, gate: Gate) -> ResolvedPolicy:
    """The policy with this gate alone."""
    return policy.model_copy(update={"policy": policy.policy.model_copy(update={"gates": (gate,)})})


def test_the_example_of_the_reference_holds(tmp_path: Path) -> None:
    """All its cases come as expected; it is no whole test, so gates may block in none."""
    page = (REPOSITORY / "docs" / "reference" / "policy-test.md").read_text()
    block = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert block is not None
    shutil.copytree(POLICIES / "suites", tmp_path / "suites")
    shutil.copy(POLICIES / "default.yaml", tmp_path)
    file = tmp_path / "tests" / "default.yaml"
    file.parent.mkdir()
    file.write_text(block[1])
    report = run_policy_tests(file)
    assert [case.name for case in report.cases if not case.is_met] == []
    assert len(report.cases) == 3
