"""The linter: every rule of its own, at its place; what it goes on with after a problem; and its figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import guards.authoring.policy_fit
from guards.authoring.policy_lint import LintReport, lint_policy
from guards.authoring.suite_facts import ItemFacts, SuiteFacts
from guards.errors import SuiteError
from guards.policy import resolve_policy
from guards.roles import Roles
from tests.store_world import person

CLUSTERS = ("fire", "flood", "theft", "fraud")
FACTS = SuiteFacts(
    metrics=("refused", "loglik", "shade"),
    binary=frozenset({"refused"}),
    unbounded=frozenset({"loglik"}),
    items=tuple(ItemFacts(CLUSTERS[i % 4], {"source": str(i // 2)}) for i in range(240)),
    has_outputs=True,
)
FLOOR = (
    "{id: floor, kind: eval, suite: fresh, metric: refused, claim: at_least, level: 0.7, alpha: 0.05, min_items: 50, "
    "max_unscored: 0.02}"
)
HOLDS = FLOOR.replace("floor", "holds").replace(
    "at_least, level: 0.7", "non_inferior_within, margin: 0.1, against: champion"
)
COLLAPSE = "{id: varied, kind: collapse, suite: fresh, against: champion, min_items: 100, min_distinct_share: 0.8}"
INTEGRITY = "{id: same, kind: integrity, against: champion}"
BUDGET = "{id: budget, kind: budget, max_cycles_without_person: 4, max_cost_s: 100}"
GAIN = HOLDS.replace("id: holds", "id: gain").replace("non_inferior_within, margin: 0.1", "superior_by, margin: 0.0")
HEAD = """\
schema: stairlock/policy/v1
name: test
description: For tests.
looks: {planned: 4}
suites: {fresh: fresh.yaml, kept: kept.yaml}
holdouts: {kept: {reads: 4}}
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
    assert kept.alpha_last == 0.0125 / 8 and kept.power_last < kept.power_first  # the fourth read of a holdout
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
    head = HEAD.replace("holdouts: {kept: {reads: 4}}", "holdouts: {fresh: {reads: 4}}")
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
    report = lint(tmp_path, FLOOR.replace("}", ", judge: j}"), tail=judged(1).replace("400", "9007199254740991"))
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


def test_a_collapse_gate_that_needs_more_items_than_are_drawn_is_reported(tmp_path: Path) -> None:
    assert found(lint(tmp_path, COLLAPSE, FLOOR.replace("100", "240"))) == []
    assert found(lint(tmp_path, COLLAPSE.replace("100", "240"), FLOOR)) == []
    assert found(lint(tmp_path, COLLAPSE.replace("100", "241"), FLOOR)) == ["9:78 error policy.too-few-items"]
    member = f"{{id: all, kind: all_of, gates: [{FLOOR}, {COLLAPSE.replace('100', '241')}]}}"
    assert [p.rule for p in lint(tmp_path, member).problems] == ["policy.too-few-items"]


def test_a_collapse_gate_on_a_suite_without_outputs_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "FACTS", replace(FACTS, has_outputs=False))
    assert found(lint(tmp_path, COLLAPSE, FLOOR)) == ["9:41 error policy.no-outputs"]


def test_a_budget_that_the_first_candidate_exceeds_is_refused(tmp_path: Path) -> None:
    report = lint(tmp_path, FLOOR, BUDGET.replace("person: 4", "person: 0"))
    assert found(report) == ["10:59 error yaml.invalid"]


@pytest.mark.parametrize(
    ("reads", "against", "warns"),
    [(3, "champion", True), (4, "champion", False), (4, "root", True), (4, "anchor", True), (5, "root", False)],
)
def test_a_holdout_that_is_spent_before_the_last_look_is_reported(
    tmp_path: Path, reads: int, against: str, warns: bool
) -> None:
    gates = FLOOR, HOLDS.replace("champion", against)
    report = lint(tmp_path, *gates, head=HEAD.replace("reads: 4", f"reads: {reads}"))
    assert found(report) == (["6:26 warning policy.holdout-short"] if warns else [])
    if warns:
        (problem,) = report.problems
        needed = 4 if against == "champion" else 5
        assert f"got {reads}; expected at least {needed}" in problem.message
        assert "4 looks are planned" in problem.message


def test_a_member_of_an_any_of_that_passes_without_any_test_is_reported(tmp_path: Path) -> None:
    def linted(*members: str) -> LintReport:
        return lint(tmp_path, f"{{id: either, kind: any_of, gates: [{', '.join(members)}]}}")

    assert found(linted(FLOOR, HOLDS)) == found(linted(INTEGRITY, BUDGET))[1:] == []
    (problem,) = linted(FLOOR, BUDGET).problems
    assert (problem.rule, problem.severity, problem.line) == ("policy.passes-untested", "warning", 9)
    assert "budget alone passes either" in problem.message
    both = f"{{id: both, kind: all_of, gates: [{INTEGRITY}, %s]}}"
    assert found(linted(FLOOR, both % HOLDS)) == []
    assert [p.rule for p in linted(FLOOR, both % BUDGET).problems] == ["policy.passes-untested"]
    only_if = f"{{id: new, kind: only_if, condition: {INTEGRITY}, then: %s}}"
    assert found(linted(FLOOR, only_if % HOLDS)) == []
    assert [p.rule for p in linted(FLOOR, only_if % BUDGET).problems] == ["policy.passes-untested"]


def test_a_test_that_passes_too_often_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards.authoring.policy_fit, "size_of_gate", lambda *_a, **_k: 0.0126)
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
    head = HEAD.replace("planned: 4", "planned: 1000").replace("reads: 4", "reads: 1000")
    assert "policy.cannot-pass" in {p.rule for p in lint(tmp_path, FLOOR, head=head).problems}


def test_a_path_that_no_file_can_have_is_the_path_of_none(tmp_path: Path) -> None:
    head = HEAD.replace("fresh.yaml", "x" * 5000)
    assert "policy.missing-suite" in {p.rule for p in lint(tmp_path, FLOOR, head=head).problems}
