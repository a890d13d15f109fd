"""Scores that treat all models alike: permuting models permutes scores, and p has the size that it says."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guards.drift.bank import Scoring
from guards.drift.scores import ModelScores, StageColumns, _distance, n_at_least, score_models
from guards.errors import EvidenceError

METHODS = ("mahalanobis", "max_abs_z", "directed_sum", "directed_max", "max_raw")


def scoring(**changes: Any) -> Scoring:
    body = {"stages": {"activations": {"method": "mahalanobis"}}, **changes}
    return Scoring.model_validate(body)


def stage(values: Any, method: str = "mahalanobis", sides: Any = None, *, regress: bool = True) -> StageColumns:
    values = np.asarray(values, dtype=np.float64)
    regress_dose = regress and method != "max_raw"
    how = scoring(stages={"activations": {"method": method, "regress_dose": regress_dose}}).stages["activations"]
    return StageColumns(values, tuple(sides or ["two_sided"] * values.shape[1]), how)


def without_dose(n_models: int) -> np.ndarray:
    return np.zeros((n_models, 0))


def scores_of(rng: np.random.Generator, n_models: int, dims: tuple[int, ...], **changes: Any) -> ModelScores:
    """Random models that are exchangeable, with heavy tails and a dose that moves every component."""
    stages, dose, sources = random_models(rng, n_models, dims)
    return score_models(stages, dose, scoring(**changes), sources)


def random_models(
    rng: np.random.Generator, n_models: int, dims: tuple[int, ...]
) -> tuple[dict[str, StageColumns], np.ndarray, list[frozenset[str]]]:
    dose = rng.lognormal(size=(n_models, 1))
    names = ("activations", "weights", "outputs", "dictionary", "triggers")
    stages = {
        name: stage(dose * rng.standard_normal((1, d)) + rng.standard_t(3, size=(n_models, d)), method)
        for name, d, method in zip(names, dims, METHODS, strict=False)
    }
    return stages, dose, [frozenset({f"s{i % 4}"}) for i in range(n_models)]


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(
    st.integers(0, 2**32),
    st.integers(8, 24),
    st.lists(st.integers(1, 30), min_size=1, max_size=5),
    st.sampled_from(["max", "mean"]),
    st.sampled_from(["model", "source"]),
)
def test_permuting_models_permutes_their_scores(
    seed: int, n_models: int, dims: list[int], combine: str, leave_out: str
) -> None:
    rng = np.random.default_rng(seed)
    stages, dose, sources = random_models(rng, n_models, tuple(dims))
    how = scoring(combine=combine, leave_out=leave_out)
    order = rng.permutation(n_models)
    moved = {name: StageColumns(one.values[order], one.sides, one.scoring) for name, one in stages.items()}
    before = score_models(stages, dose, how, sources)
    after = score_models(moved, dose[order], how, [sources[i] for i in order])
    np.testing.assert_allclose(after.combined, before.combined[order], rtol=1e-6, atol=1e-6)
    for name in stages:
        np.testing.assert_allclose(after.by_stage[name], before.by_stage[name][order], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dims", [(3, 2), (40, 5)], ids=["few components", "more components than models"])
def test_p_is_at_most_a_with_probability_at_most_a(dims: tuple[int, int]) -> None:
    """1,000 banks of each kind; 0.0029 is three standard errors at a = 0.1 above what exchangeability allows."""
    rng = np.random.default_rng(20240)
    n_bank, n_banks = 9, 1000
    ps = [Fraction(1 + n_at_least(scores_of(rng, n_bank + 1, dims).combined), n_bank + 1) for _ in range(n_banks)]
    for a in (Fraction(1, 10), Fraction(2, 10), Fraction(5, 10)):
        share = sum(p <= a for p in ps) / n_banks
        spread = float(a * (1 - a) / n_banks) ** 0.5
        assert share <= float(a) + 3.0 * spread
        assert share >= float(a) - 4.0 * spread, "p is far too large: a test like this could not fail"


def test_a_bank_that_is_standardised_by_itself_would_not_have_that_size() -> None:
    """The same simulation sees the usual mistake: the bank's rows in their own centre, scale and covariance."""
    rng = np.random.default_rng(7)
    n_bank, n_banks, n_small = 19, 200, 0
    for _ in range(n_banks):
        values = rng.standard_normal((n_bank + 1, 15))
        bank = values[:-1]
        distances = [
            _distance((row - bank.mean(0)) / bank.std(0), (bank - bank.mean(0)) / bank.std(0)) for row in values
        ]
        n_small += n_at_least(np.array(distances)) == 0
    assert n_small / n_banks > 0.15, "p = 1/20 comes three times too often"


def test_more_others_of_the_same_source_do_not_hide_a_model() -> None:
    rng = np.random.default_rng(3)
    values = rng.standard_normal((30, 2))
    values[24:] += 20.0  # a source of its own, whose members are each other's only like
    sources = [frozenset({"a" if i < 24 else "b"}) for i in range(30)]
    dims = {"activations": stage(values, "max_abs_z")}
    by_source = score_models(dims, without_dose(30), scoring(leave_out="source"), sources)
    by_model = score_models(dims, without_dose(30), scoring(), sources)
    assert by_source.z["activations"][24:].min() > by_model.z["activations"][24:].max()


def test_the_dose_is_taken_off() -> None:
    rng = np.random.default_rng(1)
    dose = rng.uniform(1.0, 10.0, size=(40, 1))
    values = 5.0 * dose + 0.1 * rng.standard_normal((40, 1))
    values[-1] = 5.0 * dose[-1] + 3.0  # usual in size, unusual for its dose
    values[-1], dose[-1] = values[-1] - 5.0 * dose[-1] + 25.0, 5.0
    plain = score_models({"activations": stage(values, "max_abs_z", regress=False)}, dose, scoring())
    regressed = score_models({"activations": stage(values, "max_abs_z")}, dose, scoring(ridge=0.01))
    assert n_at_least(plain.combined) > 10 and n_at_least(regressed.combined) == 0


@pytest.mark.parametrize(
    ("method", "side", "value", "is_unusual"),
    [
        ("directed_max", "high", 9.0, True),
        ("directed_max", "high", -9.0, False),
        ("directed_max", "low", -9.0, True),
        ("directed_max", "low", 9.0, False),
        ("directed_max", "two_sided", -9.0, True),
        ("directed_sum", "low", -9.0, True),
        ("directed_sum", "low", 9.0, False),
        ("max_raw", "high", 9.0, True),
        ("max_raw", "low", -9.0, True),
        ("max_raw", "low", 9.0, False),
        ("max_abs_z", "high", -9.0, True),
        ("mahalanobis", "high", -9.0, True),
    ],
)
def test_only_the_suspicious_side_counts_where_it_is_directed(
    method: str, side: str, value: float, is_unusual: bool
) -> None:
    values = np.random.default_rng(5).standard_normal((30, 3))
    values[-1] = [value, 0.0, 0.0]
    found = score_models({"activations": stage(values, method, [side] * 3)}, without_dose(30), scoring())
    assert (n_at_least(found.combined) == 0) == is_unusual


def test_what_is_constant_in_the_bank_and_not_in_the_candidate_is_unusual() -> None:
    values = np.zeros((30, 2))
    values[-1, 1] = 1e-4
    for method in METHODS:
        found = score_models({"activations": stage(values, method)}, without_dose(30), scoring())
        assert np.isfinite(found.combined).all()
        assert n_at_least(found.combined) == 0, method


def test_models_that_are_all_alike_are_all_usual() -> None:
    for method in METHODS:
        found = score_models({"activations": stage(np.ones((20, 3)), method)}, np.ones((20, 1)), scoring())
        assert n_at_least(found.combined) == 19, method


def test_the_combined_score_is_the_largest_or_the_mean() -> None:
    rng = np.random.default_rng(2)
    stages, dose, _ = random_models(rng, 12, (3, 3))
    largest = score_models(stages, dose, scoring(combine="max"))
    mean = score_models(stages, dose, scoring(combine="mean"))
    table = np.stack(list(largest.by_stage.values()))
    np.testing.assert_allclose(largest.combined, table.max(axis=0))
    np.testing.assert_allclose(mean.combined, table.mean(axis=0))


def test_shrinkage_is_that_of_ledoit_and_wolf() -> None:
    """By the definition: b2 as a sum over models, d2 as a distance of matrices."""
    rng = np.random.default_rng(8)
    theirs, mine = rng.standard_normal((12, 20)), rng.standard_normal(20)
    n, d = theirs.shape
    centred = theirs - theirs.mean(0)
    sample = centred.T @ centred / n
    mu = np.trace(sample) / d
    d2 = np.linalg.norm(sample - mu * np.eye(d)) ** 2 / d
    b2 = min(d2, sum(np.linalg.norm(np.outer(x, x) - sample) ** 2 for x in centred) / d / n**2)
    covariance = b2 / d2 * mu * np.eye(d) + (1.0 - b2 / d2) * sample
    gap = mine - theirs.mean(0)
    assert _distance(mine, theirs) == pytest.approx(float(np.sqrt(gap @ np.linalg.inv(covariance) @ gap)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_what_cannot_be_reckoned_with_is_refused(bad: float) -> None:
    values = np.random.default_rng(0).standard_normal((10, 2))
    values[3, 1] = bad
    with pytest.raises(EvidenceError) as caught:
        score_models({"activations": stage(values)}, without_dose(10), scoring())
    assert caught.value.rule == "drift.not-finite"


def test_too_few_others_are_refused() -> None:
    values = np.random.default_rng(0).standard_normal((5, 2))
    assert score_models({"activations": stage(values)}, without_dose(5), scoring()).combined.shape == (5,)
    sources = [frozenset({"a"}), frozenset({"a", "b"}), frozenset({"b"}), frozenset({"c"}), frozenset[str]()]
    for how, n, given_sources in (("model", 4, None), ("source", 5, sources)):
        with pytest.raises(EvidenceError) as caught:
            score_models({"activations": stage(values[:n])}, without_dose(n), scoring(leave_out=how), given_sources)
        assert caught.value.rule == "drift.too-few-others"


def test_equal_up_to_rounding_is_equal() -> None:
    assert n_at_least(np.array([1.0, 2.0, 3.0, 2.0 + 1e-12])) == 2
    assert n_at_least(np.array([1.0, 2.0, 3.0, 2.0 + 1e-3])) == 1
