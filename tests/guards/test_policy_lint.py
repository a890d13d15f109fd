"""The linter: every rule of its own, at its place; what it goes on with after a problem; and its figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import guards.policy_fit
from guards.errors import SuiteError
from guards.policy import resolve_policy
from guards.policy_lint import LintReport, lint_policy
from guards.roles import Roles
from guards.suite_facts import ItemFacts, SuiteFacts
from tests.store_world import person

CLUSTERS = ("fire", "flood", "theft", "fraud")
FACTS = SuiteFacts(
    metrics=("refused", "loglik", "shade"),
    binary=frozenset({"refused"}),
    unbounded=frozenset({"loglik"}),
    items=tuple(ItemFacts(CLUSTERS[i % 4], {"source": str(i // 2)}) for i in range(240)),
)
FLOOR = (
    "{id: floor, kind: eval, suite: fresh, metric: refused, claim: at_least, level: 0.7, alpha: 0.05, min_items: 50, "
    "max_unscored: 0.02}"
)
HOLDS = FLOOR.replace("floor", "holds").replace(
    "at_least, level: 0.7", "non_inferior_within, margin: 0.1, against: champion"
)
GAIN = HOLDS.replace("id: holds", "id: gain").replace("non_inferior_within, margin: 0.1", "superior_by, margin: 0.0")
HEAD = """\
schema: stairlock/policy/v1
name: test
description: For tests.
looks: {planned: 4}
suites: {fresh: fresh.yaml, kept: kept.yaml}
holdouts: {kept: {reads: 2}}
approvals: {required: 2, roles: [reviewer, safety]}
gates:
"""
N_HEAD = HEAD.count("\n")
KEPT = FLOOR.replace("id: floor", "id: kept-floor").replace("suite: fresh", "suite: kept")


def read_suite(path: Path) -> SuiteFacts:
    return FACTS


def people(**roles_of: tuple[str, ...]) -> Roles:
    key = Ed25519PrivateKey.generate
    persons = tuple(person(name, *held, key=key()) for name, held in roles_of.items())
    return Roles(schema="stairlock/roles/v1", people=persons)


def lint(tmp_path: Path, *gates: str, head: str = HEAD, tail: str = "", roles: Roles | None = None) -> LintReport:
    """The report on a policy whose gates stand one on each line after the head."""
    (tmp_path / "fresh.yaml").write_text("items: {generated: 1}\n")
    (tmp_path / "kept.yaml").write_text("items: {file: items.jsonl}\n")
    (tmp_path / "items.jsonl").write_text("{}\n")
    path = tmp_path / "policy.yaml"
    path.write_text(head + "".join(f"  - {gate}\n" for gate in (*gates, KEPT)) + tail)
    return lint_policy(path, read_suite, roles=roles)


def found(report: LintReport) -> list[str]:
    return [f"{p.line}:{p.column} {p.severity} {p.rule}" for p in report.problems]


def test_a_good_policy_has_no_problems_and_its_figures_are_there(tmp_path: Path) -> None:
    report = lint(tmp_path, FLOOR, HOLDS, GAIN)
    assert found(report) == []
    assert [fit.gate.id for fit in report.fits] == ["floor", "holds", "gain", "kept-floor"]
    floor, kept = report.fits[0], report.fits[3]
    assert floor.alpha_first == floor.alpha_last == 0.0125
    assert kept.alpha_last == 0.0125 / 2 and kept.power_last < kept.power_first  # the second read of a holdout
    first, last = report.joint_power
    assert (first.look, last.look) == (1, 4)
    assert last.power.at_least <= last.power.independent <= last.power.at_most == min(f.power_last for f in report.fits)
    resolve_policy(tmp_path / "policy.yaml")


# What is wrong with the first gate, and what is reported; its line is 9.
CASES: dict[str, tuple[str, list[str]]] = {
    "unknown metric": (FLOOR.replace("refused", "refusd"), ["9:51 error policy.unknown-metric"]),
    "unbounded metric without a scale": (HOLDS.replace("refused", "loglik"), ["9:51 error policy.unbounded-metric"]),
    "level of an unbounded metric": (FLOOR.replace("refused", "loglik"), ["9:51 error policy.unbounded-metric"]),
    "cluster that is not there": (
        FLOOR.replace("}", ", clusters: [fire, flod]}"),
        ["9:147 error policy.unknown-cluster"],
    ),
    "too few items": (FLOOR.replace("min_items: 50", "min_items: 500"), ["9:113 error policy.too-few-items"]),
    "too few items of its clusters": (
        FLOOR.replace("min_items: 50", "min_items: 61").replace("}", ", clusters: [fire]}"),
        ["9:113 error policy.too-few-items"],
    ),
    "too few sources": (
        FLOOR.replace("min_items: 50", "min_items: 121").replace("}", ", group_by: tag:source}"),
        ["9:113 error policy.too-few-items"],
    ),
    "tag that items do not have": (FLOOR.replace("}", ", group_by: tag:author}"), ["9:147 error policy.unknown-tag"]),
    "no room above the level": (FLOOR.replace("0.7", "0.999"), ["9:5 error policy.cannot-pass"]),
    "no room within the margin": (HOLDS.replace("0.1", "0.002"), ["9:5 error policy.cannot-pass"]),
    "no room for so few sources": (
        HOLDS.replace("min_items: 50", "min_items: 4").replace("}", ", group_by: cluster}"),
        ["9:5 error policy.cannot-pass"],
    ),
    "next to no alpha": (FLOOR.replace("0.05", "1e-200"), ["9:5 error policy.cannot-pass"]),
    "little room": (HOLDS.replace("0.1", "0.04"), ["9:5 warning policy.seldom-passes"]),
    "suite that is not declared": (FLOOR.replace("fresh", "frsh"), ["9:36 error policy.unknown-suite"]),
    "id that is taken": (FLOOR.replace("id: floor", "id: kept-floor"), ["10:10 error policy.duplicate-gate"]),
}


@pytest.mark.parametrize("name", CASES)
def test_each_rule_at_its_place(tmp_path: Path, name: str) -> None:
    gate, expected = CASES[name]
    reported = [one for one in found(lint(tmp_path, gate)) if "policy.unused" not in one]
    assert reported == expected


def test_every_problem_of_a_file_is_reported_at_once(tmp_path: Path) -> None:
    report = lint(
        tmp_path,
        FLOOR.replace("level", "levle"),  # left out of everything below
        HOLDS.replace("suite: fresh", "suite: fersh"),
        GAIN.replace("refused", "refusd"),
        FLOOR.replace("0.7", "0.999"),
        head=HEAD.replace("name: test", "nmae: test\nname: test").replace(
            "fresh: fresh.yaml", "fresh: fresh.yaml, x: gone"
        ),
        tail="waivers: []\n",
    )
    assert found(report) == [
        "2:1 error yaml.unknown-key",
        "6:32 error policy.missing-suite",
        "10:77 error yaml.unknown-key",
        "11:36 error policy.unknown-suite",
        "12:50 error policy.unknown-metric",
        "13:5 error policy.cannot-pass",
    ]
    assert report.joint_power == ()  # nothing is said about all gates where some cannot be tested


def test_a_file_that_is_no_yaml_is_one_problem(tmp_path: Path) -> None:
    report = lint(tmp_path, FLOOR, tail="]")
    assert [p.rule for p in report.problems] == ["yaml.syntax"]
    assert lint_policy(tmp_path / "none.yaml", read_suite).problems[0].rule == "yaml.no-file"


def test_a_suite_that_cannot_be_read_is_reported_where_it_is_named_or_where_it_is_wrong(tmp_path: Path) -> None:
    lint(tmp_path, FLOOR)

    def refuse(path: Path) -> SuiteFacts:
        raise SuiteError("suite.no-items", "no items", fix="add some")

    report = lint_policy(tmp_path / "policy.yaml", refuse)
    assert found(report) == ["5:17 error suite.no-items", "5:35 error suite.no-items"]
    (tmp_path / "kept.yaml").write_text("items:\n  file: items.jsonl\n  file: items.jsonl\n")
    report = lint_policy(tmp_path / "policy.yaml", read_suite)
    (problem,) = report.problems
    assert (Path(problem.file).name, problem.line, problem.rule) == ("kept.yaml", 3, "yaml.duplicate-key")


def test_holdouts_are_checked_and_do_not_hide_other_problems(tmp_path: Path) -> None:
    head = HEAD.replace("holdouts: {kept: {reads: 2}}", "holdouts: {fresh: {reads: 2}}")
    report = lint(tmp_path, FLOOR.replace("0.7", "0.999"), head=head)
    assert found(report) == [
        "5:35 error policy.holdout-undeclared",
        "6:12 error policy.holdout-fresh",
        "9:5 error policy.cannot-pass",
    ]


def test_what_no_gate_reads_is_reported(tmp_path: Path) -> None:
    judges = "judges: {j: {calibration: {a: {positives: 9, detected: 9, negatives: 9, cleared: 9}}, family: a, "
    judges += "min_sensitivity: 0.6, min_specificity: 0.6}}\n"
    report = lint(tmp_path, tail=judges)
    assert [p.message for p in report.problems] == ["no gate reads the suite 'fresh'", "no gate reads the judge 'j'"]
    assert {p.severity for p in report.problems} == {"warning"}


def judged(detected: int) -> str:
    return (
        f"judges: {{j: {{calibration: {{a: {{positives: 400, detected: {detected}, negatives: 400, cleared: 400}}}}, "
        "family: a, min_sensitivity: 0.8, min_specificity: 0.8}}\n"
    )


def test_a_judge_that_is_too_weak_is_reported_at_the_gate(tmp_path: Path) -> None:
    gate = FLOOR.replace("}", ", judge: j}")
    assert found(lint(tmp_path, gate, tail=judged(395))) == []
    assert found(lint(tmp_path, gate, tail=judged(320))) == ["9:144 error policy.judge-too-weak"]
    # A weaker judge leaves less power.
    good, worse = (lint(tmp_path, gate, tail=judged(n)).fits[0].power_last for n in (400, 370))
    assert worse < good


def test_a_judge_of_a_score_that_is_no_yes_or_no_is_reported(tmp_path: Path) -> None:
    gate = FLOOR.replace("refused", "shade").replace("}", ", judge: j}")
    assert found(lint(tmp_path, gate, tail=judged(395))) == ["9:142 error policy.judge-metric"]


def test_more_labelled_outputs_than_anybody_has_are_refused(tmp_path: Path) -> None:
    report = lint(tmp_path, FLOOR.replace("}", ", judge: j}"), tail=judged(1).replace("400", "9007199254740992"))
    assert {p.rule for p in report.problems} == {"yaml.invalid"}


def test_too_little_joint_power_is_a_warning_with_the_figures(tmp_path: Path) -> None:
    gates = [HOLDS.replace("holds", f"holds-{i}").replace("0.1", f"0.04{i}") for i in range(3)]
    report = lint(tmp_path, *gates)
    _, problem = (p for p in report.problems if p.rule == "policy.joint-power")
    joint = report.joint_power[-1].power
    assert problem.severity == "warning" and problem.line == N_HEAD
    assert joint.independent < 0.5 and f"{joint.independent:.2f} if they are independent" in problem.message
    assert "holds-0" in problem.message


def test_members_of_composite_gates_are_checked_at_their_alpha(tmp_path: Path) -> None:
    either = f"{{id: either, kind: any_of, gates: [{FLOOR}, {HOLDS.replace('0.1', '0.04')}]}}"
    report = lint(tmp_path, either)
    assert [p.rule for p in report.problems] == ["policy.seldom-passes"] and report.problems[0].line == 9
    assert report.fits[0].alpha_last == 0.0125 / 2  # two members share alpha
    # The likeliest member stands for the gate.
    floor, _, kept = report.fits
    assert report.joint_power[-1].power.at_most == min(floor.power_last, kept.power_last)


def test_a_test_that_passes_too_often_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards.policy_fit, "size_of_gate", lambda *_a, **_k: 0.0126)
    assert "9:5 error policy.size-above-alpha" in found(lint(tmp_path, FLOOR))


def test_approvals_are_checked_against_the_people_there_are(tmp_path: Path) -> None:
    three = people(ana=("reviewer", "safety"), ben=("reviewer", "safety"), cy=("reviewer", "safety"))
    assert found(lint(tmp_path, FLOOR, roles=three)) == []
    two = people(ana=("reviewer",), ben=("safety",), cy=("governance",))
    assert found(lint(tmp_path, FLOOR, roles=two)) == ["7:12 warning policy.few-approvers"]
    alone = people(ana=("reviewer", "safety"))
    assert found(lint(tmp_path, FLOOR, roles=alone)) == [
        "7:23 error policy.no-approvers",
        "7:33 error policy.no-approvers",
    ]
    assert "nobody has a role among safety" in lint(tmp_path, roles=people(ana=("reviewer",))).problems[-1].message


def test_alphas_that_floats_cannot_hold_do_not_end_in_a_crash(tmp_path: Path) -> None:
    head = HEAD.replace("planned: 4", "planned: 1000").replace("reads: 2", "reads: 1000")
    assert "policy.cannot-pass" in {p.rule for p in lint(tmp_path, FLOOR, head=head).problems}


def test_a_path_that_no_file_can_have_is_the_path_of_none(tmp_path: Path) -> None:
    head = HEAD.replace("fresh.yaml", "x" * 5000)
    assert "policy.missing-suite" in {p.rule for p in lint(tmp_path, FLOOR, head=head).problems}
