"""Alpha spending: whatever is planned later, all looks together spend no more than alpha."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guards import actions
from guards.gates.alpha import (
    LookPlan,
    alpha_of_look,
    earlier_looks,
    exact_alpha,
    plan_of,
    rounded_down,
    share_spent,
)
from guards.gates.eval_gate import evaluate_eval_gate
from guards.gates.evaluate import evaluate_gate
from guards.policy import EvalGate, Spending
from tests.gate_world import EVAL_GATE, binary, make_inputs, make_policy, make_run
from tests.store_world import make_world, other_policy

ALPHA = Fraction("0.05")


SCHEDULES: tuple[Spending, ...] = ("even", "pocock", "obrien-fleming", "unbounded")
FINITE = SCHEDULES[:3]


def plan(planned: int, alpha: float = 0.05, spending: Spending = "even") -> LookPlan:
    return LookPlan(planned, {"refusal-holds": alpha}, spending)


def spent_by(plans: list[LookPlan]) -> list[Fraction]:
    """The size of each look, where look i was made under the policy that said ``plans[i]``."""
    return [alpha_of_look("refusal-holds", now, plans[:i]) for i, now in enumerate(plans)]


def sizes(planned: list[int], alphas: list[float] | None = None) -> list[Fraction]:
    declared = alphas or [0.05] * len(planned)
    return spent_by([plan(n, alpha) for n, alpha in zip(planned, declared, strict=True)])


@pytest.mark.parametrize("planned", [1, 2, 7, 8, 16])
def test_without_edits_every_planned_look_has_an_equal_part(planned: int) -> None:
    assert sizes([planned] * (planned + 2)) == [ALPHA / planned] * planned + [0, 0]


def test_looks_that_are_planned_after_all_was_spent_get_nothing() -> None:
    assert sum(sizes([8] * 8 + [16] * 8)) == ALPHA
    assert sizes([8] * 8 + [16] * 8)[8:] == [0] * 8


def test_looks_that_are_planned_in_time_share_what_is_left() -> None:
    got = sizes([8] * 4 + [16] * 12)
    assert got == [ALPHA / 8] * 4 + [ALPHA / 2 / 12] * 12
    assert sum(got) == ALPHA


def test_fewer_planned_looks_get_more_each_but_not_more_in_total() -> None:
    assert sizes([8, 8, 4, 4]) == [ALPHA / 8] * 2 + [ALPHA * 6 / 8 / 2] * 2


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_whatever_is_planned_the_looks_spend_alpha_at_most(planned: list[int]) -> None:
    got = sizes(planned)
    assert sum(got) <= ALPHA and min(got) >= 0


ANY_PLAN = st.builds(
    plan,
    st.integers(1, 20),
    st.sampled_from([0.01, 0.025, 0.05, 0.1, 0.2]),
    st.sampled_from(SCHEDULES),
)


@given(st.lists(ANY_PLAN, min_size=1, max_size=30))
def test_whatever_is_edited_a_look_keeps_the_sum_within_the_alpha_declared_then(plans: list[LookPlan]) -> None:
    got = spent_by(plans)
    alphas = [exact_alpha(one.alpha_by_gate["refusal-holds"]) for one in plans]
    for i, size in enumerate(got):
        assert size == 0 or sum(got[: i + 1]) <= alphas[i]
    assert min(got) >= 0 and sum(got) <= max(alphas)


@given(st.lists(ANY_PLAN, min_size=1, max_size=12))
def test_what_a_run_of_looks_spends_does_not_depend_on_how_they_are_counted(plans: list[LookPlan]) -> None:
    """Equal plans in a row are summed at once; taken one by one, by the formula itself, they give the same."""
    spent = Fraction(0)
    for n_used, (now, size) in enumerate(zip(plans, spent_by(plans), strict=True)):
        alpha = exact_alpha(now.alpha_by_gate["refusal-holds"])
        before, after = (share_spent(now.spending, n, now.planned, alpha) for n in (n_used, n_used + 1))
        left = max(Fraction(0), alpha - spent)
        assert size == (0 if before == 1 else left * (after - before) / (1 - before))
        spent += size


@pytest.mark.parametrize("spending", FINITE)
@pytest.mark.parametrize("planned", [1, 2, 5, 8, 100])
def test_a_finite_schedule_spends_all_of_alpha_by_its_last_look_and_nothing_after(
    spending: Spending, planned: int
) -> None:
    got = spent_by([plan(planned, spending=spending)] * (planned + 2))
    assert sum(got) == ALPHA
    assert all(size > 0 for size in got[:planned]) and got[planned:] == [0, 0]


@pytest.mark.parametrize("planned", [2, 5, 8])
def test_schedules_are_those_of_their_formulas(planned: int) -> None:
    def cumulative(spending: Spending) -> list[float]:
        return [float(x) for x in accumulate(spent_by([plan(planned, spending=spending)] * planned))]

    times = [k / planned for k in range(1, planned + 1)]
    normal = NormalDist()
    pocock = [0.05 * math.log(1 + (math.e - 1) * t) for t in times]
    obrien = [2 - 2 * normal.cdf(normal.inv_cdf(0.975) / math.sqrt(t)) for t in times]
    assert cumulative("pocock") == pytest.approx(pocock, rel=1e-9)
    assert cumulative("obrien-fleming") == pytest.approx(obrien, rel=1e-6, abs=1e-12)
    unbounded = spent_by([plan(planned, spending="unbounded")] * 20)
    assert [float(x) for x in unbounded] == pytest.approx([0.3 / (math.pi * t) ** 2 for t in range(1, 21)], rel=1e-9)


@pytest.mark.parametrize("spending", SCHEDULES)
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_no_schedule_is_ahead_of_its_formula(spending: Spending, alpha: float) -> None:
    for n_looks in range(1, 50):
        share = share_spent(spending, n_looks, 60, exact_alpha(alpha))
        exact = {
            "even": n_looks / 60,
            "pocock": math.log1p((math.e - 1) * n_looks / 60),
            "obrien-fleming": math.erfc(-NormalDist().inv_cdf(alpha / 2) / math.sqrt(2 * n_looks / 60)) / alpha,
            "unbounded": 6 / math.pi**2 * math.fsum(1 / k**2 for k in range(1, n_looks + 1)),
        }[spending]
        assert 0 <= exact - share <= 2e-12 * exact
        assert share > share_spent(spending, n_looks - 1, 60, exact_alpha(alpha))


def test_unbounded_never_ends_and_never_spends_it_all() -> None:
    got = spent_by([plan(1, spending="unbounded")] * 200)
    assert min(got) > 0 and sum(got) < ALPHA
    assert alpha_of_look("refusal-holds", plan(1, spending="unbounded"), [plan(1, spending="unbounded")] * 20000) > 0


@given(st.fractions(min_value=0, max_value=1))
def test_a_float_of_an_alpha_is_never_above_it(alpha: Fraction) -> None:
    rounded = rounded_down(alpha)
    assert exact_alpha(rounded) <= alpha < exact_alpha(math.nextafter(rounded, 2.0))


def test_an_alpha_that_a_policy_says_stays_as_it_is_said() -> None:
    assert [rounded_down(Fraction(text)) for text in ("0.05", "0.1", "0.2", "0.00625")] == [0.05, 0.1, 0.2, 0.00625]


def test_members_of_any_of_share_alpha_on_every_level(tmp_path: Path) -> None:
    def test_gate(gate_id: str) -> dict[str, Any]:
        return {**EVAL_GATE, "id": gate_id}

    nest = {"id": "in", "kind": "any_of", "gates": [test_gate("c"), test_gate("d"), {"id": "i", "kind": "integrity"}]}
    only_if = {"id": "if", "kind": "only_if", "condition": {"id": "j", "kind": "integrity"}, "then": test_gate("e")}
    policy = make_policy(
        tmp_path,
        EVAL_GATE,
        {"id": "any", "kind": "any_of", "gates": [test_gate("a"), nest]},
        {"id": "all", "kind": "all_of", "gates": [test_gate("b"), only_if]},
        planned=4,
    )
    whole = {"refusal-holds": ALPHA, "a": ALPHA / 2, "c": ALPHA / 6, "d": ALPHA / 6, "b": ALPHA, "e": ALPHA}
    assert plan_of(policy.policy).alpha_by_gate == whole
    world = make_world(tmp_path / "world")
    actions.record_policy(world.store, policy=policy, actor="runner")
    world.draw(world.seal("one", policy=policy.digest), policy=policy.digest)
    with world.store.read() as history:
        assert earlier_looks(history, "test", 2) == (plan_of(policy.policy),)


def test_a_gate_under_another_id_does_not_begin_anew() -> None:
    before = LookPlan(4, {"the-old-name": 0.05})
    assert alpha_of_look("refusal-holds", plan(4), [before, before]) == ALPHA / 4
    assert alpha_of_look("refusal-holds", plan(2), [before, before]) == 0


def test_the_log_says_what_earlier_looks_planned(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    world.set_root()
    candidate = world.seal("one")
    world.gate(candidate, "inconclusive")
    world.draw(world.seal("two"))  # never decided: it could have been looked at
    more = other_policy(world)
    world.draw(world.seal("three", policy=more.digest), policy=more.digest)
    elsewhere = other_policy(world, "elsewhere")
    world.draw(world.seal("four", policy=elsewhere.digest), policy=elsewhere.digest)
    with world.store.read() as history:
        assert [plan.planned for plan in earlier_looks(history, "test", 4)] == [8, 8, 9]
        assert earlier_looks(history, "test", 3) == (plan_of(world.policy.policy),) * 2
        assert earlier_looks(history, "test", 1) == earlier_looks(history, "never", 1) == ()


def test_a_gate_tests_at_what_is_left(tmp_path: Path) -> None:
    policy = make_policy(tmp_path, EVAL_GATE, planned=16)
    runs = [make_run(tmp_path, policy, role, binary(60, 50)) for role in ("candidate", "champion")]
    (declared,) = policy.policy.gates
    assert isinstance(declared, EvalGate)
    four = (LookPlan(8, {"refusal-holds": 0.05}),) * 4
    inputs = make_inputs(policy, *runs, look=5, earlier_looks=four)
    assert evaluate_eval_gate(declared, inputs).alpha == rounded_down(ALPHA / 2 / 12)


def test_a_gate_under_an_unbounded_schedule_tests_after_the_planned_looks(tmp_path: Path) -> None:
    policy = make_policy(tmp_path, EVAL_GATE, looks={"planned": 2, "spending": "unbounded"})
    runs = [make_run(tmp_path, policy, role, binary(60, 50)) for role in ("candidate", "champion")]
    found = evaluate_gate(policy.policy.gates[0], make_inputs(policy, *runs, look=3))
    assert found.alpha == pytest.approx(0.3 / (math.pi * 3) ** 2, rel=1e-9)
