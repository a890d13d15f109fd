"""The check of alpha before the log takes a verdict: which passes spend more than their look leaves, in words."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest

from guards.gates.alpha import LookPlan, rounded_down
from guards.gates.look_alpha import overspent
from guards.gates.verdict import Verdict
from guards.policy import Policy
from tests.gate_world import EVAL_GATE, policy_body

ALPHA = Fraction("0.05")


def policy_of(*gates: dict[str, Any], planned: int = 2) -> Policy:
    return Policy.model_validate(policy_body(*gates, planned=planned))


def evaluated(gate_id: str) -> dict[str, Any]:
    return {**EVAL_GATE, "id": gate_id}


def said(gate_id: str, outcome: str, alpha: float | None = None, members: Sequence[Verdict] = ()) -> Verdict:
    body = {"gate_id": gate_id, "kind": "any", "outcome": outcome, "reason": "so it is"}
    return Verdict.model_validate({**body, "alpha": alpha, "members": tuple(members)})


def found(policy: Policy, *verdicts: Verdict, earlier: Sequence[LookPlan] = ()) -> list[str]:
    return list(overspent(policy, verdicts, look=len(earlier) + 1, earlier=earlier, reads={}))


@pytest.mark.parametrize(
    ("alpha", "at"), [(0.025, ""), (0.05, "alpha 0.05"), (-0.01, "alpha -0.01"), (0.0, "alpha 0.0"), (None, "no alpha")]
)
def test_a_pass_says_at_which_alpha_and_what_the_look_may_spend(alpha: float | None, at: str) -> None:
    wrong = [f"a passes at {at}, and this look may spend 0.025 on it"] if at else []
    assert found(policy_of(evaluated("a")), said("a", "pass", alpha)) == wrong


def test_every_pass_is_looked_at_whatever_is_said_before_it() -> None:
    budget = {"id": "budget", "kind": "budget", "max_cycles_without_person": 9, "max_cost_s": 100}
    policy = policy_of(*(evaluated(gate_id) for gate_id in "abc"), budget)
    spent = [LookPlan(1, {"b": 0.05, "a": 0.01, "c": 0.01})]
    verdicts = said("budget", "pass"), said("a", "fail"), said("b", "pass", 1e-9), said("c", "pass", 0.05)
    first, second = found(policy, *verdicts, earlier=spent)
    assert first.startswith("b passes, but ") and second.startswith("c passes at alpha 0.05, ")


def test_where_all_alpha_was_spent_a_pass_is_told_so() -> None:
    spent = [LookPlan(2, {"a": 0.05})] * 2
    (wrong,) = found(policy_of(evaluated("a"), planned=8), said("a", "pass", 1e-9), earlier=spent)
    assert wrong == "a passes, but the 2 looks before, under policies of this name, spent the whole alpha of 0.05"


@pytest.mark.parametrize("depth", [1, 2])
def test_members_spend_their_part_on_every_level(depth: int) -> None:
    share = rounded_down(ALPHA / 2 / 2**depth)

    def verdict(alpha: float) -> Verdict:
        whole = said("a", "pass", alpha)
        for level in range(depth):
            whole = said(f"any-{level}", "pass", members=(whole, said(f"other-{level}", "inconclusive")))
        return whole

    gate = evaluated("a")
    for level in range(depth):
        gate = {"id": f"any-{level}", "kind": "any_of", "gates": (gate, evaluated(f"other-{level}"))}
    policy = policy_of(gate)
    assert found(policy, verdict(share)) == []
    assert found(policy, verdict(0.025)) == [f"a passes at alpha 0.025, and this look may spend {share!r} on it"]
