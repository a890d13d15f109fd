"""Alpha spending: whatever is planned later, all looks together spend no more than alpha."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guards.gates.alpha import LookPlan, alpha_of_look, earlier_looks, plan_of
from guards.gates.eval_gate import evaluate_eval_gate
from guards.policy import EvalGate
from tests.gate_world import EVAL_GATE, binary, make_inputs, make_policy, make_run
from tests.store_world import make_world, other_policy

ALPHA = Fraction("0.05")


def gate(alpha: float = 0.05) -> EvalGate:
    return EvalGate.model_validate({**EVAL_GATE, "alpha": alpha})


def sizes(planned: list[int], alphas: list[float] | None = None) -> list[Fraction]:
    """The size of each look, where look i was made under a policy that planned ``planned[i]``."""
    declared = alphas or [0.05] * len(planned)
    plans = [LookPlan(n, {"refusal-holds": alpha}) for n, alpha in zip(planned, declared, strict=True)]
    return [alpha_of_look(gate(a), n, plans[:i]) for i, (n, a) in enumerate(zip(planned, declared, strict=True))]


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


@given(st.lists(st.tuples(st.integers(1, 20), st.sampled_from([0.01, 0.025, 0.05, 0.1, 0.2])), min_size=1, max_size=30))
def test_a_look_that_spends_keeps_the_sum_within_the_alpha_declared_then(plans: list[tuple[int, float]]) -> None:
    alphas = [alpha for _, alpha in plans]
    got = sizes([planned for planned, _ in plans], alphas)
    for i, size in enumerate(got):
        assert size == 0 or sum(got[: i + 1]) <= Fraction(repr(alphas[i]))
    assert sum(got) <= Fraction(repr(max(alphas)))


def test_a_gate_under_another_id_does_not_begin_anew() -> None:
    before = LookPlan(4, {"the-old-name": 0.05})
    assert alpha_of_look(gate(), 4, [before, before]) == ALPHA / 4
    assert alpha_of_look(gate(), 2, [before, before]) == 0


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
    assert evaluate_eval_gate(declared, inputs).alpha == float(ALPHA / 2 / 12)
