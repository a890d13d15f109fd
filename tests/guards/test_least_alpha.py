"""Where almost no alpha is left, a look is inconclusive: bounds at such an alpha are not numbers any more."""

from __future__ import annotations

from fractions import Fraction

import pytest

from guards.errors import EvidenceError
from guards.gates.alpha import LEAST_ALPHA
from guards.gates.look_alpha import alpha_left
from guards.policy import EvalGate, Policy
from guards.statistics import clopper_pearson_lower, clopper_pearson_upper


def policy_with(alpha: float) -> Policy:
    gate = {"id": "floor", "kind": "eval", "suite": "s", "metric": "m", "claim": "at_least", "level": 0.5}
    return Policy.model_validate(
        {
            "schema": "stairlock/policy/v1",
            "name": "test",
            "description": "For tests.",
            "looks": {"planned": 1},
            "suites": {"s": "s.yaml"},
            "gates": ({**gate, "alpha": alpha, "min_items": 1, "max_unscored": 0.0},),
            "approvals": {"required": 0, "unattended": "I accept promotion without a person"},
        }
    )


@pytest.mark.parametrize(("alpha", "is_left"), [(2e-30, True), (1e-30, True), (9e-31, False), (1e-300, False)])
def test_less_than_the_least_alpha_is_no_alpha(alpha: float, is_left: bool) -> None:
    policy = policy_with(alpha)
    (gate,) = policy.gates
    assert isinstance(gate, EvalGate)
    if is_left:
        left = alpha_left(gate, policy, look=1, earlier=(), n_earlier_reads=None)
        assert left == Fraction(repr(alpha))
    else:
        with pytest.raises(EvidenceError) as caught:
            alpha_left(gate, policy, look=1, earlier=(), n_earlier_reads=None)
        assert caught.value.rule == "gate.alpha-spent"


@pytest.mark.parametrize("n", [1, 2, 400, 1_000_000])
@pytest.mark.parametrize("alpha", [LEAST_ALPHA, 1e-9])
def test_bounds_are_numbers_down_to_the_least_alpha(n: int, alpha: float) -> None:
    for k in {0, 1, n // 2, n - 1, n}:
        # A tenth of a look's alpha goes to each bound of a judge.
        lower, upper = (bound(k, n, alpha / 10) for bound in (clopper_pearson_lower, clopper_pearson_upper))
        assert 0.0 <= lower <= k / n <= upper <= 1.0
