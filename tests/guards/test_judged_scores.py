"""Scores that a judge gave: exact arithmetic, refusal of weak judges, and the size when the judge errs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from guards.errors import EvidenceError
from guards.gates.evaluate import evaluate_gate
from guards.gates.judged_scores import JudgeBounds, judge_bounds
from guards.gates.score_table import ScoreTable, make_table
from guards.gates.table_verdict import bets_of, judge_table
from guards.policy import EvalGate, Judge
from guards.statistics import betting_test, binomial_p_at_least, mcnemar_p_value
from tests.gate_world import EVAL_GATE, binary, make_inputs, make_policy, make_run

LEVEL_KEYS = {key: value for key, value in EVAL_GATE.items() if key not in ("margin", "against")}


def judge_of(detected: int, positives: int, cleared: int, negatives: int, **changes: Any) -> Judge:
    counts = {"positives": positives, "detected": detected, "negatives": negatives, "cleared": cleared}
    minima = {"min_sensitivity": 0.55, "min_specificity": 0.55}
    return Judge.model_validate({"calibration": {"small": counts}, "family": "small", **minima, **changes})


def gate_of(body: dict[str, Any], **changes: Any) -> EvalGate:
    return EvalGate.model_validate({**body, "min_items": 1, "judge": "words", **changes})


def paired(gains: int, losses: int, same: int) -> ScoreTable:
    return make_table(
        Counter(
            {
                ("all", None, 1.0, 0.0): gains,
                ("all", None, 0.0, 1.0): losses,
                ("all", None, 1.0, 1.0): same,
            }
        )
    )


def rates(successes: int, n: int) -> ScoreTable:
    return make_table(Counter({("all", None, 1.0, None): successes, ("all", None, 0.0, None): n - successes}))


def test_alpha_is_split_into_a_test_and_two_bounds() -> None:
    bounds = judge_bounds(judge_of(90, 100, 180, 200), 0.05)
    assert bounds.alpha_of_test == pytest.approx(0.04)
    # Clopper-Pearson at 0.005, one-sided, from scipy's beta quantiles.
    assert bounds.sensitivity_low == pytest.approx(stats.beta.ppf(0.005, 90, 11), abs=1e-9)
    assert bounds.sensitivity_high == pytest.approx(stats.beta.ppf(0.995, 91, 10), abs=1e-9)
    assert bounds.specificity_low == pytest.approx(stats.beta.ppf(0.005, 180, 21), abs=1e-9)
    assert (bounds.sensitivity, bounds.specificity) == (0.9, 0.9)
    assert bounds.alpha_of_test + 2 * 0.005 <= 0.05 + 1e-15


KNOWN = JudgeBounds(
    family="small",
    alpha_of_test=0.04,
    sensitivity=0.9,
    sensitivity_low=0.8,
    sensitivity_high=0.95,
    specificity=0.85,
    specificity_low=0.7,
)


def test_the_observed_null_is_the_stated_one() -> None:
    non_inferior = gate_of(EVAL_GATE, margin=0.1)
    assert KNOWN.observed_null(non_inferior) == pytest.approx(-0.1 * 0.5)
    assert KNOWN.observed_null(gate_of(EVAL_GATE, claim="superior_by", margin=0.1)) == 0.1
    at_least = gate_of(LEVEL_KEYS, claim="at_least", level=0.6)
    assert KNOWN.observed_null(at_least) == pytest.approx(0.6 * 0.95 + 0.4 * 0.3)
    assert KNOWN.observed_null(gate_of(LEVEL_KEYS, claim="at_most", level=0.6)) == pytest.approx(0.6 * 0.8)
    assert KNOWN.true_estimate(non_inferior, -0.15) == pytest.approx(-0.2)
    assert KNOWN.true_estimate(at_least, 0.75) == pytest.approx((0.75 - 0.15) / 0.75)


@given(
    st.floats(-0.99, 0.99), st.sampled_from([0.02, 0.1, 0.3]), st.sampled_from(["superior_by", "non_inferior_within"])
)
def test_the_true_bound_clears_the_margin_where_the_observed_one_clears_its_null(
    bound: float, margin: float, claim: str
) -> None:
    gate = gate_of(EVAL_GATE, claim=claim, margin=margin)
    threshold = margin if claim == "superior_by" else -margin
    null = KNOWN.observed_null(gate)
    if abs(bound - null) > 1e-9:
        assert (bound > null) == (KNOWN.true_bound(gate, bound) > threshold)


@given(st.floats(0.0, 1.0), st.floats(0.05, 0.95))
def test_the_true_bound_of_a_level_clears_it_likewise(bound: float, level: float) -> None:
    for claim, sign in (("at_least", 1), ("at_most", -1)):
        gate = gate_of(LEVEL_KEYS, claim=claim, level=level)
        null = KNOWN.observed_null(gate)
        if abs(bound - null) > 1e-9:
            assert (sign * (bound - null) > 0) == (sign * (KNOWN.true_bound(gate, bound) - level) > 0)


@settings(deadline=None)
@given(
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
    st.floats(0.8, 0.95),
    st.floats(0.7, 1.0),
    st.sampled_from([0.05, 0.1, 0.3, 0.6]),
)
def test_no_true_null_is_outside_the_observed_one(p: float, q: float, se: float, sp: float, edge: float) -> None:
    # Whatever the judge's rates within their bounds: who is in the null is seen in the observed null.
    seen_p, seen_q = (rate * se + (1 - rate) * (1 - sp) for rate in (p, q))
    for claim, in_null, observed in (
        ("non_inferior_within", p - q <= -edge, seen_p - seen_q),
        ("superior_by", p - q <= edge, seen_p - seen_q),
        ("at_least", p <= edge, seen_p),
        ("at_most", p >= edge, seen_p),
    ):
        body = EVAL_GATE if claim in ("non_inferior_within", "superior_by") else LEVEL_KEYS
        shape = {"margin": edge} if body is EVAL_GATE else {"level": edge}
        null = KNOWN.observed_null(gate_of(body, claim=claim, **shape))
        if in_null:
            assert observed >= null - 1e-12 if claim == "at_most" else observed <= null + 1e-12


def test_a_verdict_tests_what_was_seen_and_says_what_is_true() -> None:
    judge = judge_of(285, 300, 285, 300)
    bounds = judge_bounds(judge, 0.05)
    found = judge_table(gate_of(EVAL_GATE), paired(5, 8, 227), 0.05, judge=judge)
    seen = betting_test([1.0] * 5 + [-1.0] * 8 + [0.0] * 227, -0.1 * bounds.j_low, 0.04)
    assert found.outcome == ("pass" if seen.rejects else "inconclusive")
    assert found.observed == pytest.approx((5 - 8) / 240 / 0.9)
    assert found.bound == pytest.approx(seen.lower_bound / bounds.j_low)
    assert found.alpha == 0.05
    assert found.details["judge_family"] == "small" and "as_judged" in found.details
    assert found.details["suite"] == "refusal"


def test_exact_tests_stay_exact() -> None:
    judge = judge_of(285, 300, 285, 300)
    superior = judge_table(gate_of(EVAL_GATE, claim="superior_by", margin=0.0), paired(20, 8, 212), 0.05, judge=judge)
    assert float(superior.details["p_value"]) == pytest.approx(mcnemar_p_value(20, 8), rel=1e-5)
    assert superior.outcome == ("pass" if mcnemar_p_value(20, 8) <= 0.04 else "inconclusive") == "pass"
    gate = gate_of(LEVEL_KEYS, claim="at_least", level=0.6)
    null = judge_bounds(judge, 0.05).observed_null(gate)
    floor = judge_table(gate, rates(180, 240), 0.05, judge=judge)
    assert float(floor.details["p_value"]) == pytest.approx(binomial_p_at_least(180, 240, null), rel=1e-5)


def test_a_judge_that_errs_makes_a_margin_harder() -> None:
    gate, table = gate_of(EVAL_GATE), paired(0, 6, 234)
    plain = judge_table(EvalGate.model_validate({**EVAL_GATE}), table, 0.05)
    good = judge_table(gate, table, 0.05, judge=judge_of(1000, 1000, 1000, 1000))
    poor = judge_table(gate, table, 0.05, judge=judge_of(800, 1000, 800, 1000))
    assert (plain.outcome, good.outcome, poor.outcome) == ("pass", "pass", "inconclusive")
    assert plain.bound is not None and good.bound is not None and poor.bound is not None
    assert plain.bound > good.bound > poor.bound


@pytest.mark.parametrize(
    ("judge", "what"),
    [
        (judge_of(9, 10, 500, 500), "sensitivity"),
        (judge_of(500, 500, 9, 10), "specificity"),
        (judge_of(300, 500, 490, 500, min_sensitivity=0.7), "sensitivity"),
        (judge_of(260, 500, 260, 500, min_sensitivity=0.02, min_specificity=0.99), "specificity"),
        (judge_of(30, 500, 500, 500, min_sensitivity=0.01, min_specificity=0.999), "specificity"),
    ],
    ids=["few positives", "few negatives", "below the minimum", "a guess", "no better than a guess"],
)
def test_a_weak_judge_decides_nothing(judge: Judge, what: str) -> None:
    with pytest.raises(EvidenceError) as caught:
        judge_table(gate_of(EVAL_GATE), paired(0, 0, 240), 0.05, judge=judge)
    assert caught.value.rule == "gate.judge-too-weak"
    assert what in caught.value.message


def test_a_judge_that_is_not_shown_to_beat_guessing_decides_nothing_whatever_the_minima_say() -> None:
    weak = judge_of(260, 500, 260, 500).model_copy(update={"min_sensitivity": 0.1, "min_specificity": 0.1})
    with pytest.raises(EvidenceError) as caught:
        judge_bounds(weak, 0.05)
    assert caught.value.rule == "gate.judge-too-weak" and "together" in caught.value.message


def test_a_family_without_labels_decides_nothing() -> None:
    unknown = judge_of(290, 300, 290, 300).model_copy(update={"family": "large"})
    with pytest.raises(EvidenceError) as caught:
        judge_bounds(unknown, 0.05)
    assert caught.value.rule == "gate.judge-too-weak"


def test_a_metric_of_the_judges_negatives_exchanges_the_rates() -> None:
    refused = judge_bounds(judge_of(290, 300, 250, 300), 0.05)
    answered = judge_bounds(judge_of(290, 300, 250, 300, measures="negative"), 0.05)
    assert (answered.sensitivity_low, answered.specificity_low) == (refused.specificity_low, refused.sensitivity_low)
    assert (answered.sensitivity, answered.specificity) == (refused.specificity, refused.sensitivity)
    assert answered.sensitivity_high > refused.specificity


def test_a_score_between_yes_and_no_is_no_judgement() -> None:
    table = make_table(Counter({("all", None, 0.5, 1.0): 1, ("all", None, 1.0, 1.0): 239}))
    with pytest.raises(EvidenceError) as caught:
        judge_table(gate_of(EVAL_GATE), table, 0.05, judge=judge_of(290, 300, 290, 300))
    assert caught.value.rule == "gate.not-binary"


def test_the_gate_finds_its_judge_in_the_policy(tmp_path: Path) -> None:
    for name, detected, outcome in (("good", 300, "pass"), ("weak", 150, "inconclusive")):
        judge = judge_of(detected, 300, 300, 300).model_dump(mode="json")
        policy = make_policy(tmp_path / name, {**EVAL_GATE, "judge": "words"}, judges={"words": judge})
        runs = [make_run(tmp_path / name, policy, role, binary(240, 200)) for role in ("candidate", "champion")]
        found = evaluate_gate(policy.policy.gates[0], make_inputs(policy, *runs))
        assert found.outcome == outcome
        if outcome == "inconclusive":
            assert found.details["rule"] == "gate.judge-too-weak"


# ---------------------------------------------------------------------------------------------
# Size, by simulation: the labels are drawn anew each time, and so are the judge's errors
# ---------------------------------------------------------------------------------------------


def judged(rng: np.random.Generator, truth: np.ndarray, se: float, sp: float) -> np.ndarray:
    return np.where(truth, rng.random(truth.shape) < se, rng.random(truth.shape) >= sp)


def share_of_passes(body: dict[str, Any], se: float, sp: float, n_repeats: int, *, corrected: bool) -> float:
    """Passes at the true edge of the null; ``corrected`` tells the gate about its judge."""
    rng = np.random.default_rng(17)
    n, n_labels, alpha = 300, 200, 0.2
    gate = gate_of(body) if corrected else EvalGate.model_validate({**body, "min_items": 1})
    passes = 0
    for _ in range(n_repeats):
        labels = judge_of(int(rng.binomial(n_labels, se)), n_labels, int(rng.binomial(n_labels, sp)), n_labels)
        if gate.is_paired:
            edge = -gate.margin if gate.claim == "non_inferior_within" else gate.margin
            champion = rng.random(n) < 0.7
            candidate = rng.random(n) < 0.7 + (edge or 0.0)
            mine, other = judged(rng, candidate, se, sp), judged(rng, champion, se, sp)
        else:
            mine, other = judged(rng, rng.random(n) < (gate.level or 0.0), se, sp), None
        table = make_table(
            Counter(("all", None, float(mine[i]), None if other is None else float(other[i])) for i in range(n))
        )
        try:
            verdict = judge_table(gate, table, alpha, judge=labels if corrected else None)
        except EvidenceError:
            continue
        passes += verdict.outcome == "pass"
    return passes / n_repeats


SIZES = {
    "non-inferior": {**EVAL_GATE, "margin": 0.2},
    "superior": {**EVAL_GATE, "claim": "superior_by", "margin": 0.05},
    "at least": {**LEVEL_KEYS, "claim": "at_least", "level": 0.3},
    "at most": {**LEVEL_KEYS, "claim": "at_most", "level": 0.8},
}


@pytest.mark.parametrize("claim", SIZES)
@pytest.mark.parametrize(("se", "sp"), [(0.75, 0.9), (0.95, 0.8)])
def test_false_passes_stay_below_alpha_when_the_judge_errs(claim: str, se: float, sp: float) -> None:
    assert share_of_passes(SIZES[claim], se, sp, 150, corrected=True) <= 0.2


@pytest.mark.parametrize(
    ("claim", "se", "sp"), [("non-inferior", 0.75, 0.75), ("at least", 0.95, 0.8), ("at most", 0.75, 0.9)]
)
def test_without_the_judges_errors_they_do_not(claim: str, se: float, sp: float) -> None:
    assert share_of_passes(SIZES[claim], se, sp, 150, corrected=False) > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("claim", SIZES)
@pytest.mark.parametrize(("se", "sp"), [(0.75, 0.75), (0.75, 0.95), (0.95, 0.75), (0.98, 0.98), (1.0, 1.0)])
def test_false_passes_over_many_draws(claim: str, se: float, sp: float) -> None:
    assert share_of_passes(SIZES[claim], se, sp, 2500, corrected=True) <= 0.2


def test_bets_on_judged_scores_are_against_the_null_and_at_the_alpha_that_the_judge_leaves() -> None:
    judge = judge_of(180, 200, 180, 200)
    bounds = judge_bounds(judge, 0.05)
    paired_gate, level_gate = gate_of(EVAL_GATE), gate_of(LEVEL_KEYS, claim="at_least", level=0.6)
    paired_bets = bets_of(paired_gate, paired(20, 8, 72), 0.05, judge=judge)
    level_bets = bets_of(level_gate, rates(80, 100), 0.05, judge=judge)
    assert paired_bets.null_mean == bounds.observed_null(paired_gate)
    assert level_bets.null_mean == 2.0 * bounds.observed_null(level_gate) - 1.0
    assert paired_bets.alpha == level_bets.alpha == bounds.alpha_of_test
