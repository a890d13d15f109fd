"""The binding tests: published values, exact size by enumeration, and what must never matter."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from guards.authoring.power import exact_size
from guards.statistics import (
    bet_fraction,
    betting_lower_bound,
    betting_test,
    binomial_p_at_least,
    binomial_p_at_most,
    binomial_upper_tail,
    clopper_pearson,
    clopper_pearson_lower,
    clopper_pearson_upper,
    cluster_robust_interval,
    histogram,
    log_e_value,
    mcnemar_lower_bound,
    mcnemar_p_value,
    mean_of,
    tango_interval,
)

Stratum = tuple[int, float, float]
"""(number of items, probability of a gain, probability of a loss)."""

differences = st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=60)
alphas = st.sampled_from([0.2, 0.05, 0.025, 0.00625])


def gains_and_losses(strata: list[Stratum]) -> np.ndarray:
    """Exact joint distribution of (gains, losses), shape (gain, loss), for items of several strata."""
    size = sum(n for n, _, _ in strata) + 1
    wave = np.exp(-2j * np.pi * np.arange(size) / size)
    transform = np.ones((size, size), complex)
    for n, gain, loss in strata:
        transform *= (1 - gain - loss + gain * wave[:, None] + loss * wave[None, :]) ** n
    return np.real(np.fft.ifft2(transform))


def betting_rejections(n: int, null_mean: float, alpha: float) -> np.ndarray:
    """Which (gains, losses) the betting test rejects at, shape (gain, loss)."""
    rejected = np.zeros((n + 1, n + 1), bool)
    for gains in range(n + 1):
        for losses in range(n + 1 - gains):
            data = [1.0] * gains + [-1.0] * losses + [0.0] * (n - gains - losses)
            fraction = bet_fraction(n, null_mean, alpha)
            rejected[gains, losses] = log_e_value(data, null_mean, fraction) >= math.log(1 / alpha)
    return rejected


def random_strata_at(rng: random.Random, n: int, mean: float) -> list[Stratum] | None:
    """Two to four kinds of items, very different from one another, whose mean difference is ``mean``."""
    cuts = sorted(rng.sample(range(1, n), rng.randint(1, 3)))
    sizes = [b - a for a, b in itertools.pairwise([0, *cuts, n])]
    strata: list[Stratum] = []
    for size in sizes:
        changes, gain_share = rng.betavariate(0.4, 0.8), rng.betavariate(0.4, 0.6)
        strata.append((size, changes * gain_share, changes * (1 - gain_share)))
    gains, losses = (sum(s[0] * s[i] for s in strata) for i in (1, 2))
    if gains - losses > n * mean:  # scale the gains down, or the losses up, until the mean fits
        wanted = losses + n * mean
        if wanted < 0 or gains == 0:
            return None
        return [(size, gain * wanted / gains, loss) for size, gain, loss in strata]
    wanted = gains - n * mean
    strata = [(size, gain, loss * wanted / losses) for size, gain, loss in strata]
    return strata if all(gain + loss <= 1 for _, gain, loss in strata) else None


# ---------------------------------------------------------------------------------------------
# One share
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:857-872, table I, "exact"
    [(81, 263, 0.2527, 0.3676), (15, 148, 0.0578, 0.1617), (0, 20, 0.0, 0.1684), (1, 29, 0.0009, 0.1776)],
)
def test_clopper_pearson_agrees_with_published_intervals(successes: int, n: int, low: float, high: float) -> None:
    assert clopper_pearson(successes, n) == pytest.approx((low, high), abs=5e-5)


@settings(deadline=None)
@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_clopper_pearson_agrees_with_scipy(count: tuple[int, int], confidence: float) -> None:
    interval = stats.binomtest(*count).proportion_ci(confidence, method="exact")
    assert clopper_pearson(*count, confidence) == pytest.approx((interval.low, interval.high), abs=1e-8)


@settings(deadline=None)
@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.01, 0.99))
def test_binomial_p_values_agree_with_scipy_in_the_tail(count: tuple[int, int], level: float) -> None:
    successes, n = count
    assume(abs(successes - n * level - 1) > 1e-9)  # at the very edge of the tail rounding decides
    expected = stats.binomtest(successes, n, level, alternative="greater").pvalue
    got = binomial_p_at_least(successes, n, level)
    assert got == pytest.approx(1.0 if successes < n * level + 1 else expected, rel=1e-8, abs=1e-12)
    assert got == pytest.approx(binomial_p_at_most(n - successes, n, 1.0 - level), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("k", "rate", "tail"), [(0, 0.0, 1.0), (1, 0.0, 0.0), (3, 1.0, 1.0), (5, 1.0, 1.0), (6, 1.0, 0.0)]
)
def test_a_rate_of_zero_or_one_leaves_nothing_to_chance(k: int, rate: float, tail: float) -> None:
    assert binomial_upper_tail(k, 5, rate) == tail


@pytest.mark.parametrize(
    ("successes", "n", "level", "tail"), [(2, 2, 0.5, 1 / 4), (3, 4, 0.5, 5 / 16), (4, 4, 0.75, 81 / 256)]
)
def test_hoeffdings_tail_begins_one_above_the_mean(successes: int, n: int, level: float, tail: float) -> None:
    assert binomial_p_at_least(successes, n, level) == pytest.approx(tail, rel=1e-12)
    assert binomial_p_at_least(successes, n, level + 1e-9) == 1.0


def test_a_level_test_has_its_size_for_items_of_different_rates() -> None:
    # Poisson-binomial tails against Hoeffding's bound, at the edge of the null.
    rng = random.Random(1)
    for _ in range(200):
        n, level, alpha = rng.choice([20, 60, 100]), rng.choice([0.5, 0.7, 0.9]), rng.choice([0.05, 0.00625])
        rates = [rng.betavariate(0.3, 0.3) for _ in range(n)]
        excess = sum(rates) - n * level
        rates = [
            r * (1 - excess / sum(rates)) if excess > 0 else r - (1 - r) * excess / (n - sum(rates)) for r in rates
        ]
        assert sum(rates) == pytest.approx(n * level)
        mass = np.ones(1)
        for rate in rates:
            mass = np.convolve(mass, [1 - rate, rate])
        rejected = [binomial_p_at_least(k, n, level) <= alpha for k in range(n + 1)]
        assert mass[rejected].sum() <= alpha


def test_a_level_that_is_no_number_is_not_passed() -> None:
    for successes in range(1, 11):
        assert not binomial_p_at_least(successes, 10, math.nan) < 1.0


def test_a_level_of_a_tiny_rate_is_not_reached_by_one_lucky_item() -> None:
    # One success where 0.01 are expected: below Hoeffding's tail, so it counts for nothing.
    assert binomial_p_at_least(1, 10, 0.001) == 1.0


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(1, 50), alphas)
def test_one_sided_bounds_are_where_the_test_turns(successes: int, more: int, alpha: float) -> None:
    n = successes + more
    lower = clopper_pearson_lower(successes, n, alpha)
    assert binomial_upper_tail(successes, n, lower - 1e-6) <= alpha + 1e-12 or lower == 0.0
    assert binomial_upper_tail(successes, n, lower + 1e-6) > alpha or successes == 0
    assert clopper_pearson_upper(successes, n, alpha) >= successes / n


# ---------------------------------------------------------------------------------------------
# Pairs
# ---------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_agrees_with_the_binomial_test(gains: int, losses: int) -> None:
    expected = stats.binomtest(gains, gains + losses, alternative="greater").pvalue if gains + losses else 1.0
    assert mcnemar_p_value(gains, losses) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_no_change_shows_nothing() -> None:
    assert mcnemar_p_value(0, 0) == 1.0
    assert str(mcnemar_lower_bound(0, 0, 100, 0.05)) == "0.0", "a reader would ask what -0.0 means"


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), alphas)
def test_mcnemars_bound_is_positive_exactly_where_it_rejects(gains: int, losses: int, alpha: float) -> None:
    bound = mcnemar_lower_bound(gains, losses, 120, alpha)
    assert (bound > 0) == (mcnemar_p_value(gains, losses) <= alpha)
    assert bound <= max(0.0, (gains - losses) / 120) + 1e-12


@pytest.mark.parametrize("alpha", [0.05, 0.00625])
def test_mcnemar_has_its_size_for_items_that_differ(alpha: float) -> None:
    rng = random.Random(2)
    n, worst = 60, 0.0
    rejected = np.array([[mcnemar_p_value(b, c) <= alpha for c in range(n + 1)] for b in range(n + 1)])
    searched = [random_strata_at(rng, n, 0.0) for _ in range(300)]
    # The extremes: items that always change, and gains and losses on different items.
    searched += [[(m, 0.5, 0.5), (n - m, 0.0, 0.0)] for m in range(1, n)]
    searched += [
        [(m, m_rate, 0.0), (n - m, 0.0, m * m_rate / (n - m))] for m in range(1, 30) for m_rate in (0.1, 0.5, 1)
    ]
    for strata in searched:
        if strata is not None:
            worst = max(worst, float(gains_and_losses(strata)[rejected].sum()))
    assert 0.3 * alpha < worst <= alpha


def test_tango_agrees_with_the_reference_value() -> None:
    assert tango_interval(40, 20, 160) == pytest.approx((0.0309, 0.2181), abs=5e-5)


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 60))
def test_tango_is_antisymmetric_and_covers_the_estimate(gains: int, losses: int, unchanged: int) -> None:
    n = gains + losses + unchanged
    if n == 0:
        return
    low, high = tango_interval(gains, losses, n)
    mirrored_low, mirrored_high = tango_interval(losses, gains, n)
    assert (low, high) == pytest.approx((-mirrored_high, -mirrored_low), abs=1e-9)
    assert -1.0 <= low <= (gains - losses) / n + 1e-9 and (gains - losses) / n <= high + 1e-9 <= 1.0 + 1e-8


def score_statistic(gains: int, losses: int, n: int, difference: float) -> float:
    """Tango's, with the restricted maximum of the likelihood searched for and not solved for."""

    def minus_log_likelihood(loss: float) -> float:
        shares = np.array([loss + difference, loss, 1.0 - 2.0 * loss - difference])
        return -float(special.xlogy([gains, losses, n - gains - losses], np.maximum(shares, 0.0)).sum())

    bounds = (max(0.0, -difference), (1.0 - difference) / 2.0)
    loss = optimize.minimize_scalar(minus_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    return (gains - losses - n * difference) / math.sqrt(n * (2.0 * loss + difference - difference**2))


@pytest.mark.parametrize("confidence", [0.2, 0.95])
@pytest.mark.parametrize(("gains", "losses", "n"), [(0, 0, 6), (0, 1, 2), (1, 0, 3), (0, 2, 7), (3, 1, 9), (5, 5, 10)])
def test_tango_ends_where_the_score_statistic_is_the_quantile(
    gains: int, losses: int, n: int, confidence: float
) -> None:
    z = stats.norm.ppf(0.5 + confidence / 2.0)
    low, high = tango_interval(gains, losses, n, confidence)
    assert score_statistic(gains, losses, n, low) == pytest.approx(z, rel=1e-4)
    assert score_statistic(gains, losses, n, high) == pytest.approx(-z, rel=1e-4)


@pytest.mark.parametrize("n", [10**9, 10**12])
def test_tango_of_rare_exceptions_does_not_drown_in_rounding(n: int) -> None:
    # One item of n was not lost: how rare such items are, times n, no longer depends on n.
    exceptions = [n * (1.0 + end) for end in tango_interval(0, n - 1, n)]
    assert exceptions == pytest.approx([10**6 * (1.0 + end) for end in tango_interval(0, 10**6 - 1, 10**6)], rel=1e-3)


@pytest.mark.parametrize("means", [[-0.2, 0.4], [-0.2, 0.0, 0.4, 0.6], [0.3, 0.3]])
def test_the_interval_over_sources_is_their_standard_error(means: list[float]) -> None:
    half = stats.norm.ppf(0.975) * stats.sem(means)
    assert cluster_robust_interval(histogram(means)) == pytest.approx((np.mean(means) - half, np.mean(means) + half))


def test_an_interval_over_sources_needs_two_and_stays_among_the_possible_means() -> None:
    assert cluster_robust_interval([]) is None
    assert cluster_robust_interval([(0.5, 1)]) is None
    assert cluster_robust_interval([(-1.0, 1), (1.0, 1)]) == (-1.0, 1.0)


# ---------------------------------------------------------------------------------------------
# Betting
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [5, 30, 100, 240])
@pytest.mark.parametrize("margin", [0.03, 0.08, 0.15, -0.05, 0.0])
@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.00625])
def test_exact_size_of_the_betting_test_is_at_most_alpha(n: int, margin: float, alpha: float) -> None:
    for discordance in (abs(margin), 0.06, 0.1, 0.2, 0.4, 0.7, 1.0):
        if discordance >= abs(margin) and discordance > 0:
            assert exact_size(n, margin, discordance, alpha) <= alpha


@pytest.mark.parametrize(
    ("n", "margin", "alpha"), [(40, 0.1, 0.05), (60, 0.08, 0.025), (40, 0.2, 0.2), (40, -0.05, 0.2)]
)
def test_betting_has_its_size_for_items_that_differ(n: int, margin: float, alpha: float) -> None:
    rng = random.Random(3)
    rejected = betting_rejections(n, -margin, alpha)
    searched = [s for s in (random_strata_at(rng, n, -margin) for _ in range(300)) if s is not None]
    for changed in range(math.ceil(n * abs(margin)), n):  # all change sits on a few items
        gain = (1 - n * margin / changed) / 2
        searched.append([(changed, gain, 1 - gain), (n - changed, 0.0, 0.0)])
    assert len(searched) > 100
    worst = max(float(gains_and_losses(strata)[rejected].sum()) for strata in searched)
    assert 0.0 < worst <= alpha


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5), alphas, st.floats(-0.5, 0.3))
def test_the_expected_e_value_is_at_most_one_under_the_null(
    items: list[tuple[float, float]], alpha: float, slack: float
) -> None:
    # Each item changes with its own probability and gains with its own; all outcomes are enumerated.
    laws = [((1.0, c * g), (-1.0, c * (1 - g)), (0.0, 1 - c)) for c, g in items]
    mean = sum(d * p for law in laws for d, p in law) / len(laws)
    null_mean = min(0.99, mean + abs(slack))
    assume(null_mean > -0.99 and mean <= null_mean)
    fraction = bet_fraction(len(laws), null_mean, alpha)
    expected = sum(
        math.prod(p for _, p in outcome) * math.exp(log_e_value([d for d, _ in outcome], null_mean, fraction))
        for outcome in itertools.product(*laws)
    )
    assert expected <= 1.0 + 1e-9


@pytest.mark.parametrize("shape", ["continuous", "ternary", "skewed"])
def test_simulated_false_passes_at_the_margin_stay_below_alpha(shape: str) -> None:
    rng = np.random.default_rng(4)
    n, margin, alpha, n_repeats = 60, 0.1, 0.1, 1500
    means = np.concatenate([np.full(n // 2, -margin - 0.08), np.full(n - n // 2, -margin + 0.08)])
    if shape == "continuous":
        draws = means + rng.uniform(-0.3, 0.3, (n_repeats, n))
    elif shape == "ternary":
        change = rng.random((n_repeats, n)) < 0.3
        draws = np.where(change, np.where(rng.random((n_repeats, n)) < (1 + means / 0.3) / 2, 1.0, -1.0), 0.0)
    else:  # rare total losses, hidden among small gains
        loss = 0.12
        draws = np.where(rng.random((n_repeats, n)) < loss, -1.0, (means + loss) / (1 - loss))
    rejections = sum(betting_test([float(x) for x in row], -margin, alpha).rejects for row in draws)
    assert rejections / n_repeats <= alpha


@settings(deadline=None)
@given(differences, st.randoms(use_true_random=False), alphas)
def test_the_order_of_items_cannot_matter(data: list[float], rng: random.Random, alpha: float) -> None:
    shuffled = list(data)
    rng.shuffle(shuffled)
    assert betting_test(data, -0.1, alpha) == betting_test(shuffled, -0.1, alpha)


@settings(deadline=None)
@given(differences, alphas, st.floats(-0.9, 0.9))
def test_the_bound_clears_the_null_exactly_where_the_test_rejects(
    data: list[float], alpha: float, null_mean: float
) -> None:
    result = betting_test(data, null_mean, alpha)
    assert result.lower_bound <= result.mean + 1e-9
    if abs(result.lower_bound - null_mean) > 1e-9:
        assert result.rejects == (result.lower_bound > null_mean)


@settings(deadline=None)
@given(differences, alphas, st.integers(0, 59), st.floats(0, 2))
def test_a_worse_item_never_helps(data: list[float], alpha: float, index: int, drop: float) -> None:
    worse = list(data)
    worse[index % len(data)] = max(-1.0, worse[index % len(data)] - drop)
    before, after = betting_test(data, -0.1, alpha), betting_test(worse, -0.1, alpha)
    assert after.log_e_value <= before.log_e_value and after.lower_bound <= before.lower_bound
    assert before.rejects or not after.rejects


def test_a_lower_bound_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    n, alpha, mean = 50, 0.1, 0.2
    missed = 0
    for row in rng.choice([1.0, 0.0, -1.0], p=[0.4, 0.4, 0.2], size=(1000, n)):
        missed += betting_lower_bound([float(x) for x in row], alpha, bet_fraction(n, 0.0, alpha)) > mean
    assert missed / 1000 <= alpha


@pytest.mark.parametrize("alpha", [0.05, 0.00625])
def test_the_e_value_is_the_stated_product_and_rejects_from_one_over_alpha_on(alpha: float) -> None:
    # 1 + lambda (d - m) by hand, for a fraction of 0.5 and m = -0.2: lambda is 0.625.
    assert log_e_value([0.0, 1.0, -1.0], -0.2, 0.5) == pytest.approx(math.log(1.125 * 1.75 * 0.5))
    outcomes = []
    for n in range(10, 200):
        wealth = (1 + bet_fraction(n, -0.1, alpha) / 0.9 * 0.1) ** n
        outcomes.append(wealth >= 1 / alpha)
        assert betting_test([0.0] * n, -0.1, alpha).rejects == outcomes[-1]
    assert not outcomes[0] and outcomes[-1]


def test_rounding_rejects_nothing() -> None:
    # Three items where 0.5 may be lost: the wealth is 1.9 ** 3, which on paper is 1 / alpha.
    assert not betting_test([0.0] * 3, -0.5, 1.9**-3).rejects
    assert betting_test([0.0] * 3, -0.5, 1.9**-3 * (1.0 + 1e-9)).rejects


@pytest.mark.parametrize("difference", [-0.6, 0.0, 0.3, 1.0])
def test_the_bound_of_items_that_are_alike_is_solved_for(difference: float) -> None:
    # (1 - f + f (1 + d) / (1 + m)) ** n = 1 / alpha, for m.
    n, alpha, fraction = 50, 0.05, 0.5
    expected = fraction * (1.0 + difference) / (alpha ** (-1.0 / n) - 1.0 + fraction) - 1.0
    assert betting_lower_bound([difference] * n, alpha, fraction) == pytest.approx(expected, abs=1e-12)


def test_bets_are_sized_for_the_discordance_that_is_expected() -> None:
    data = [1.0] * 5 + [-1.0] * 9 + [0.0] * 46
    found = betting_test(data, -0.1, 0.05, expected_discordance=0.4).log_e_value
    assert found == log_e_value(data, -0.1, bet_fraction(60, -0.1, 0.05, 0.4))
    assert found != betting_test(data, -0.1, 0.05).log_e_value


def test_betting_refuses_what_has_no_answer() -> None:
    outside = ([1.5], [-1.5], [0.0, 1.5], [1.0] * 1000 + [-1.5], [math.nan])
    for data, null_mean in (([], -0.1), *((data, -0.1) for data in outside), ([0.0], -1.0), ([0.0], 1.0)):
        with pytest.raises(ValueError):
            betting_test(data, null_mean, 0.05)


def test_counts_that_are_none_are_refused() -> None:
    for call in (
        lambda: binomial_p_at_least(3, 2, 0.5),
        lambda: clopper_pearson(-1, 2),
        lambda: clopper_pearson_lower(0, -1, 0.05),
        lambda: mean_of([]),
        lambda: tango_interval(2, 2, 3),
        lambda: mcnemar_p_value(-1, 3),
    ):
        with pytest.raises(ValueError):
            call()
