"""Gates made of gates: every combination of members' outcomes, their part of alpha, and what they say."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from guards.authoring.power import betting_power
from guards.decision import decide
from guards.gates.alpha import rounded_down
from guards.gates.composite import evaluate_composite_gate, reads_of, what_follows
from guards.gates.evaluate import evaluate_gate, evaluate_gates
from guards.gates.inputs import BudgetState, GateInputs
from guards.gates.verdict import Outcome, Verdict, explain
from guards.policy import AllOfGate, CompositeGate, Gate, OnlyIfGate
from tests.gate_world import EVAL_GATE, binary, make_inputs, make_policy, make_run

OUTCOMES: tuple[Outcome, ...] = ("pass", "fail", "inconclusive")


def budget(gate_id: str, most: int = 9) -> dict[str, Any]:
    return {"id": gate_id, "kind": "budget", "max_cycles_without_person": most, "max_cost_s": 100}


def eval_gate(gate_id: str, **changes: Any) -> dict[str, Any]:
    return {**EVAL_GATE, "id": gate_id, **changes}


def composite(kind: str, *members: dict[str, Any], gate_id: str = "whole") -> dict[str, Any]:
    if kind == "only_if":
        return {"id": gate_id, "kind": kind, "condition": members[0], "then": members[1]}
    return {"id": gate_id, "kind": kind, "gates": list(members)}


def outcome_for(directory: Path, kind: str, outcomes: Sequence[Outcome]) -> Verdict:
    """The composite's verdict where its members said ``outcomes``."""
    policy = make_policy(directory, composite(kind, *(budget(f"m{i}") for i in range(len(outcomes)))))
    (gate,) = policy.policy.gates
    assert isinstance(gate, CompositeGate)
    said = {f"m{i}": outcome for i, outcome in enumerate(outcomes)}

    def evaluate(member: Gate, inputs: GateInputs) -> Verdict:
        return Verdict(gate_id=member.id, kind=member.kind, outcome=said[member.id], reason="so it is")

    return evaluate_composite_gate(gate, make_inputs(policy), evaluate)


@pytest.mark.parametrize("outcomes", list(itertools.product(OUTCOMES, repeat=3)), ids="-".join)
def test_all_of_passes_where_all_do_and_fails_where_one_does(outcomes: tuple[Outcome, ...], tmp_path: Path) -> None:
    expected = "fail" if "fail" in outcomes else "pass" if set(outcomes) == {"pass"} else "inconclusive"
    assert outcome_for(tmp_path, "all_of", outcomes).outcome == expected


@pytest.mark.parametrize("outcomes", list(itertools.product(OUTCOMES, repeat=3)), ids="-".join)
def test_any_of_passes_where_one_does_and_fails_where_all_do(outcomes: tuple[Outcome, ...], tmp_path: Path) -> None:
    expected = "pass" if "pass" in outcomes else "fail" if set(outcomes) == {"fail"} else "inconclusive"
    assert outcome_for(tmp_path, "any_of", outcomes).outcome == expected


@pytest.mark.parametrize("condition", OUTCOMES)
@pytest.mark.parametrize("then", OUTCOMES)
def test_only_if_asks_unless_its_condition_fails(condition: Outcome, then: Outcome, tmp_path: Path) -> None:
    verdict = outcome_for(tmp_path, "only_if", (condition, then))
    assert verdict.outcome == ("pass" if condition == "fail" else then)
    if condition == "fail":
        assert verdict.reason == "it does not apply: m0 fails"
        return
    applies = {"pass": "it applies", "inconclusive": "it counts as applying: m0 is open"}[condition]
    says = {"pass": "m1 passes", "fail": "m1 fails", "inconclusive": "m1 is inconclusive"}[then]
    assert verdict.reason == f"{applies}, and {says}"


@pytest.mark.parametrize("kind", ["all_of", "any_of", "only_if"])
def test_an_outcome_that_nobody_thought_of_leaves_the_whole_open(kind: str, tmp_path: Path) -> None:
    (gate,) = make_policy(tmp_path, composite(kind, budget("a"), budget("b"))).policy.gates
    assert isinstance(gate, CompositeGate)
    known = Verdict(gate_id="a", kind="budget", outcome="fail" if kind == "any_of" else "pass", reason="so it is")
    unknown = known.model_copy(update={"gate_id": "b", "outcome": "maybe"})
    assert what_follows(gate, (known, unknown))[0] == "inconclusive"


def test_a_composite_of_a_policy_that_was_in_no_file_names_no_line(tmp_path: Path) -> None:
    policy = make_policy(tmp_path, composite("all_of", budget("a"), budget("b")))
    (verdict,) = evaluate_gates(make_inputs(policy.model_copy(update={"gate_lines": {}})))
    assert explain(verdict) == "whole passes: all 2 members pass."


def test_the_verdict_says_what_each_member_said(tmp_path: Path) -> None:
    policy = make_policy(
        tmp_path,
        composite("all_of", budget("b", most=1), composite("any_of", eval_gate("e"), budget("c"), gate_id="in")),
    )
    inputs = make_inputs(policy, budget=BudgetState(cycles_without_person=2, cost_s=1.0, tokens_trained=1))
    (verdict,) = evaluate_gates(inputs)
    assert (verdict.gate_id, verdict.kind, verdict.outcome) == ("whole", "all_of", "fail")
    assert verdict.policy_line == policy.gate_lines["whole"]
    said = {member.gate_id: member for member in verdict.all_members()}
    assert list(said) == ["b", "in", "e", "c"]
    assert [one.gate_id for one in verdict.members] == ["b", "in"]
    outcomes = {gate_id: member.outcome for gate_id, member in said.items()}
    assert outcomes == {"b": "fail", "in": "pass", "e": "inconclusive", "c": "pass"}
    assert said["in"].reason.startswith("one member is enough, and these pass: c")
    assert said["e"].details["rule"] == "gate.missing-run"
    assert said["b"].policy_line == policy.gate_lines["b"]
    assert decide(policy.policy, [verdict], approvals_ok=True).outcome == "reject"
    assert Verdict.from_ledger(verdict.to_ledger()) == verdict


def worlds(tmp_path: Path, *gates: dict[str, Any], n_right: int = 200, **changes: Any) -> GateInputs:
    """240 items; the champion has 200 right, and the candidate ``n_right``."""
    policy = make_policy(tmp_path / "policy", *gates, **changes)
    runs = [
        make_run(tmp_path / "runs", policy, role, binary(240, n))
        for role, n in (("candidate", n_right), ("champion", 200))
    ]
    return make_inputs(policy, *runs)


def test_members_are_tested_at_their_part_of_alpha(tmp_path: Path) -> None:
    inner = composite("all_of", eval_gate("c"), eval_gate("d"), gate_id="in")
    inputs = worlds(
        tmp_path, eval_gate("whole-alone"), composite("any_of", eval_gate("a"), budget("b"), inner), planned=2
    )
    alone, whole = evaluate_gates(inputs)
    assert alone.alpha == rounded_down(Fraction("0.05") / 2)
    part = rounded_down(Fraction("0.05") / 2 / 3)
    assert {one.gate_id: one.alpha for one in whole.all_members() if one.kind == "eval"} == {m: part for m in "acd"}


def test_a_member_that_passes_alone_may_not_pass_as_one_of_several(tmp_path: Path) -> None:
    """What the correction costs: this candidate passes at 0.05 and not at a fifth of it."""
    others = [eval_gate(f"hopeless-{i}", claim="superior_by", margin=0.9) for i in range(4)]
    inputs = worlds(
        tmp_path,
        eval_gate("alone", margin=0.03),
        composite("any_of", eval_gate("one", margin=0.03), *others),
        n_right=200,
    )
    alone, whole = evaluate_gates(inputs)
    assert (alone.outcome, whole.outcome) == ("pass", "inconclusive")
    assert whole.members[0].outcome == "inconclusive"


@pytest.mark.parametrize("k", [2, 3, 5])
def test_a_false_pass_of_any_of_is_no_likelier_than_alpha(k: int) -> None:
    """Members on items of their own, each exactly at its margin: the sum of their sizes is at most alpha."""
    part = rounded_down(Fraction("0.05") / k)
    size = betting_power(240, 0.08, 0.12, part, mean_difference=-0.08)
    whole = betting_power(240, 0.08, 0.12, 0.05, mean_difference=-0.08)
    assert 0 < 1 - (1 - size) ** k <= 0.05
    assert 1 - (1 - whole) ** k > whole  # what no correction would cost


def test_a_condition_that_cannot_be_read_counts_as_met(tmp_path: Path) -> None:
    gate = composite(
        "only_if", {"id": "same-files", "kind": "integrity"}, eval_gate("e", claim="superior_by", margin=0.5)
    )
    inputs = worlds(tmp_path, gate)
    without = GateInputs(**{**inputs.__dict__, "facts": {}})
    (verdict,) = evaluate_gates(without)
    assert verdict.outcome == "fail"
    assert verdict.members[0].outcome == "inconclusive"
    assert "counts as applying" in verdict.reason


def test_readers_find_what_members_read(tmp_path: Path) -> None:
    level = {**eval_gate("level", claim="at_most", level=0.9), "margin": None, "against": None}
    inputs = worlds(tmp_path, eval_gate("alone"), composite("all_of", level, eval_gate("e")))
    alone, whole = evaluate_gates(inputs)
    assert reads_of(alone) == (("refusal", "refused", "non_inferior_within"),)
    assert set(reads_of(whole)) == {("refusal", "refused", "at_most"), ("refusal", "refused", "non_inferior_within")}
    collapse = {"id": "c", "kind": "collapse", "suite": "refusal", "against": "champion", "min_items": 2}
    (varied,) = evaluate_gates(worlds(tmp_path / "collapse", {**collapse, "min_distinct_share": 0.5}))
    assert reads_of(varied) == (("refusal", "-", "-"),)
    assert reads_of(evaluate_gate(inputs.policy.policy.gates[0], make_inputs(inputs.policy))) == ()


def test_leaf_gates_are_all_members_in_order_and_have_no_verdict_of_their_own(tmp_path: Path) -> None:
    policy = make_policy(
        tmp_path,
        composite("only_if", budget("a"), budget("b"), gate_id="if"),
        composite("all_of", budget("c"), composite("any_of", budget("d"), budget("e"), gate_id="any"), gate_id="all"),
        budget("f"),
    ).policy
    assert [type(gate) for gate in policy.gates[:2]] == [OnlyIfGate, AllOfGate]
    assert [gate.id for gate in policy.leaf_gates()] == ["a", "b", "c", "d", "e", "f"]
    assert policy.gate("d") is None and policy.gate("any") is None
    assert isinstance(policy.gate("all"), AllOfGate)
