"""Size and power of whole gates: never above alpha, by enumeration, and what the linter asks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from guards.authoring.gate_power import Unchanged, joint_power, power_of_gate, size_of_gate
from guards.authoring.power import (
    Stratum,
    at_least_power,
    betting_fewest,
    betting_power,
    binomial_size,
    exact_size,
    mcnemar_fewest,
    mcnemar_power,
    mcnemar_size,
    rejection_probability,
    size_of_strata,
    size_where_change_is_concentrated,
)
from guards.gates.judged_scores import judge_bounds
from guards.policy import EvalGate, Judge
from guards.statistics import bet_fraction, betting_test, binomial_p_at_least, mcnemar_p_value
from tests.gate_world import EVAL_GATE

LEVEL_KEYS = {key: value for key, value in EVAL_GATE.items() if key not in ("margin", "against")}
ALPHAS = (0.05, 0.00625)


def gate_of(body: dict[str, Any], **changes: Any) -> EvalGate:
    return EvalGate.model_validate({**body, **changes})


GATES = {
    "non-inferior": gate_of(EVAL_GATE, margin=0.08),
    "scaled": gate_of(EVAL_GATE, margin=0.3, scale=2.0),
    "superior": gate_of(EVAL_GATE, claim="superior_by", margin=0.0),
    "superior by": gate_of(EVAL_GATE, claim="superior_by", margin=0.1),
    "at least": gate_of(LEVEL_KEYS, claim="at_least", level=0.7),
    "at most": gate_of(LEVEL_KEYS, claim="at_most", level=0.2),
    "sources": gate_of(EVAL_GATE, margin=0.08, group_by="cluster"),
}


def fewest_of(n: int, null_mean: float, alpha: float) -> np.ndarray:
    return betting_fewest(n, null_mean, alpha, fraction=bet_fraction(n, null_mean, alpha))


@pytest.mark.parametrize(
    ("n", "null_mean", "alpha"), [(25, -0.2, 0.1), (30, -0.08, 0.2), (20, 0.1, 0.2), (12, 0.0, 0.05)]
)
def test_fewest_gains_are_those_of_the_binding_tests(n: int, null_mean: float, alpha: float) -> None:
    betting, mcnemar = fewest_of(n, null_mean, alpha), mcnemar_fewest(n, alpha)
    for changed in range(n + 1):
        for gains in range(changed + 1):
            losses = changed - gains
            data = [1.0] * gains + [-1.0] * losses + [0.0] * (n - changed)
            assert betting_test(data, null_mean, alpha).rejects == (gains >= betting[changed])
            assert (mcnemar_p_value(gains, losses) <= alpha) == (gains >= mcnemar[changed])


def test_mcnemar_rejects_at_a_tail_of_exactly_alpha() -> None:
    # Five gains and no loss: a tail of 1/32, which no rounding may turn into more.
    assert mcnemar_fewest(5, 1 / 32)[5] == 5
    assert mcnemar_fewest(5, math.nextafter(1 / 32, 0))[5] == 6


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("n", [30, 100, 240, 1000])
@pytest.mark.parametrize("name", GATES)
def test_no_gate_exceeds_its_alpha(name: str, n: int, alpha: float) -> None:
    size = size_of_gate(GATES[name], n, alpha)
    assert size <= alpha
    if n >= 240:
        assert size > 0.02 * alpha, "a gate that never passes has a size of 0, and the test would show nothing"


@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_test_that_is_too_liberal_would_be_seen(alpha: float) -> None:
    # Had the betting test asked for a sixteenth of the wealth, its size would exceed alpha.
    n, null = 240, -0.08
    loose = betting_fewest(n, null, 16 * alpha, fraction=bet_fraction(n, null, alpha))
    assert rejection_probability(loose, 0.1, null) > alpha


def test_the_size_is_the_largest_over_the_cells() -> None:
    gate = GATES["non-inferior"]
    shares = (0.1, 0.3)
    cells = [exact_size(120, 0.08, d, 0.05) for d in (0.08, *shares)]
    assert size_of_gate(gate, 120, 0.05, shares) >= max(cells)
    alone = [
        size_where_change_is_concentrated(fewest_of(120, -0.08, 0.05), math.ceil(120 * d), -0.08)
        for d in (0.08, *shares)
    ]
    assert size_of_gate(gate, 120, 0.05, shares) == max(*cells, *alone)
    level = size_of_gate(GATES["at least"], 120, 0.05)
    assert level >= binomial_size(120, 0.7, 0.05) > 0.01


def test_the_size_counts_change_that_is_always_on_the_same_items() -> None:
    # Three of 30 items always change, and each gains with 1/4: only three gains pass. Alike items pass less.
    gate = gate_of(EVAL_GATE, margin=0.05)
    assert exact_size(30, 0.05, 0.1, 0.05) < 0.006
    assert size_of_gate(gate, 30, 0.05, (0.1,)) == pytest.approx(0.25**3)


@pytest.mark.parametrize(("n", "level"), [(30, 0.9), (120, 0.7), (60, 0.05), (10, 0.95)])
def test_the_binomial_size_is_scipys_with_hoeffdings_edge(n: int, level: float) -> None:
    passing = [k for k in range(n + 1) if binomial_p_at_least(k, n, level) <= 0.05]
    assert all(k >= n * level + 1 for k in passing)
    expected = stats.binom.sf(passing[0] - 1, n, level) if passing else 0.0
    assert binomial_size(n, level, 0.05) == pytest.approx(expected, abs=1e-12)


def test_mcnemar_size_agrees_with_full_enumeration() -> None:
    cells = [(b, c, 30 - b - c) for b in range(31) for c in range(31 - b)]
    mass = stats.multinomial(30, [0.15, 0.15, 0.7]).pmf(cells)
    expected = sum(p for p, (b, c, _) in zip(mass, cells, strict=True) if mcnemar_p_value(b, c) <= 0.05)
    assert mcnemar_size(30, 0.3, 0.05) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("discordance", [0.06, 0.2, 1.0])
def test_strata_of_one_kind_are_items_that_are_alike(discordance: float) -> None:
    fewest = fewest_of(80, -0.06, 0.05)
    gain, loss = (discordance - 0.06) / 2, (discordance + 0.06) / 2
    alike = rejection_probability(fewest, discordance, -0.06)
    assert size_of_strata(fewest, [Stratum(80, gain, loss)]) == pytest.approx(alike, abs=1e-12)
    assert size_of_strata(fewest, [Stratum(30, gain, loss), Stratum(50, gain, loss)]) == pytest.approx(alike, abs=1e-12)


def test_change_on_the_same_items_is_a_stratum_that_always_changes() -> None:
    fewest, n, changed = fewest_of(80, -0.06, 0.05), 80, 20
    share = (1 - 0.06 * n / changed) / 2
    strata = [Stratum(changed, share, 1 - share), Stratum(n - changed, 0.0, 0.0)]
    expected = size_where_change_is_concentrated(fewest, changed, -0.06)
    assert size_of_strata(fewest, strata) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("alpha", [0.2, 0.05])
def test_betting_keeps_its_size_for_unequal_items(alpha: float) -> None:
    # Gains and losses on different items, and mixtures of hard and easy ones, all with a mean of -0.1.
    n = 60
    fewest = fewest_of(n, -0.1, alpha)
    for k in range(6, n, 6):
        loss = min(1.0, 6 / k)
        opposed = [Stratum(k, 0.0, loss), Stratum(n - k, 0.0, (6 - loss * k) / (n - k))]
        assert size_of_strata(fewest, opposed) <= alpha
        if k * 0.5 >= 6:
            gain = (0.5 * k - 6) / (n - k)
            assert gain > 1 or size_of_strata(fewest, [Stratum(k, 0.0, 0.5), Stratum(n - k, gain, 0.0)]) <= alpha


def judge_of(detected: int, n: int) -> Judge:
    counts = {"positives": n, "detected": detected, "negatives": n, "cleared": detected}
    return Judge.model_validate(
        {"calibration": {"small": counts}, "family": "small", "min_sensitivity": 0.6, "min_specificity": 0.6}
    )


def test_a_judged_gate_counts_the_chance_that_the_judge_is_misjudged() -> None:
    gate, judge, alpha = gate_of(EVAL_GATE, judge="words", margin=0.1), judge_of(480, 500), 0.05
    bounds = judge_bounds(judge, alpha)
    narrow = gate_of(EVAL_GATE, margin=0.1 * bounds.j_low)
    size = size_of_gate(gate, 240, alpha, judge=judge)
    assert size == pytest.approx(size_of_gate(narrow, 240, 0.8 * alpha) + 0.2 * alpha)
    assert size <= alpha
    candidate = Unchanged(discordance=0.04)
    with_judge = power_of_gate(gate, 240, alpha, candidate, judge=judge)
    assert with_judge == power_of_gate(narrow, 240, 0.8 * alpha, candidate)
    assert with_judge < power_of_gate(gate_of(EVAL_GATE, margin=0.1), 240, alpha, candidate)


def test_a_gate_with_a_weak_judge_never_passes() -> None:
    gate = gate_of(EVAL_GATE, judge="words")
    assert size_of_gate(gate, 240, 0.05, judge=judge_of(310, 500)) == 0.0
    assert power_of_gate(gate, 240, 0.05, Unchanged(), judge=judge_of(310, 500)) == 0.0


def test_a_judged_floor_needs_more_than_a_plain_one() -> None:
    gate, judge = gate_of(LEVEL_KEYS, claim="at_least", level=0.7, judge="words"), judge_of(480, 500)
    bounds = judge_bounds(judge, 0.05)
    seen = 1 - bounds.specificity + bounds.j * 0.86
    expected = at_least_power(240, bounds.observed_null(gate), seen, 0.04)
    assert power_of_gate(gate, 240, 0.05, Unchanged(rate=0.86), judge=judge) == pytest.approx(expected)


def test_power_is_that_of_the_test_that_binds() -> None:
    candidate = Unchanged(discordance=0.1, gain=0.12, rate=0.8, spread=0.2)
    power = {name: power_of_gate(gate, 200, 0.05, candidate) for name, gate in GATES.items()}
    assert power["non-inferior"] == betting_power(200, 0.08, 0.1, 0.05) == power["sources"]
    assert power["superior"] == mcnemar_power(200, 0.22, 0.05, mean_difference=0.12)
    assert power["superior by"] == betting_power(200, -0.1, 0.22, 0.05, mean_difference=0.12)
    assert power["at least"] == at_least_power(200, 0.7, 0.8, 0.05)
    low = Unchanged(rate=0.1)
    assert power_of_gate(GATES["at most"], 200, 0.05, low) == pytest.approx(at_least_power(200, 0.8, 0.9, 0.05))


def test_power_of_a_scaled_gate_enumerates_items_that_move_either_way() -> None:
    gate, n, alpha = GATES["scaled"], 60, 0.05
    expected = math.fsum(
        math.comb(n, k) / 2**n for k in range(n + 1) if betting_test([0.4] * k + [-0.4] * (n - k), -0.15, alpha).rejects
    )
    assert power_of_gate(gate, n, alpha, Unchanged(spread=0.8)) == pytest.approx(expected, abs=1e-12)
    assert power_of_gate(gate, 240, alpha, Unchanged()) == 1.0


def test_joint_power_is_between_its_bounds() -> None:
    joint = joint_power([0.9, 0.8, 0.95])
    assert joint.at_least == pytest.approx(0.65)
    assert joint.independent == pytest.approx(0.9 * 0.8 * 0.95)
    assert joint.at_most == 0.8
    assert joint_power([0.3, 0.4]).at_least == 0.0
    nothing = joint_power([])
    assert (nothing.at_least, nothing.independent, nothing.at_most) == (1.0, 1.0, 1.0)
