"""The tests that gates bind on, and the intervals that they show.

Three tests bind. Each has size at most alpha at the actual number of items, under the assumptions
that its docstring states:

* :func:`binomial_p_at_least` (and at_most): a share of 0/1 outcomes against a fixed level;
* :func:`mcnemar_p_value`: more gains than losses among paired 0/1 outcomes;
* :func:`betting_test`: a mean of bounded (paired) differences against a margin.

Everywhere, items are independent of one another given the draw; they need not be alike. Items that
share a source, such as paraphrases of one question, are not: a gate with ``group_by`` gives the tests
one mean per source instead, and sources are what is independent then.

No test looks at the order of items, so all of them work on histograms: (value, count) pairs, in
ascending order of values.

:func:`tango_interval` is asymptotic (its test has size up to 5.8% at a nominal 5% for n=100, by
enumeration), and so is :func:`cluster_robust_interval`: they are shown to readers and never bind.

Not covered: items that depend on one another and do not say so. And an effect inside one cluster that
the others cancel: declare a gate with ``clusters:`` for every part that must not get worse.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, repeat
from statistics import NormalDist

MAX_BET_FRACTION = 0.9
"""A bet never stakes more, so that one worst-case item cannot ruin the whole e-value."""

EXPECTED_DISCORDANCE = 0.12
"""Mean squared difference that bets are sized for. It affects power only, and never the size.

Chosen by enumeration: where the truth is 0.01 to 0.1, no other choice gains more than 7 points of
power, and 15 where it is 0.2 (tests/guards/test_power.py).
"""

# Two sums in floating point that are equal on paper may differ by this much; no test passes by less.
_ROUNDING = 1e-12
_BISECTIONS = 80
_NEWTON_STEPS = 60
_NEWTON_TOLERANCE = 1e-15
# What a sum may leave out: below the rounding of its first term.
_NEGLIGIBLE = 1e-18

Histogram = Sequence[tuple[float, int]]
"""(value, how often), each value once, in ascending order."""


def histogram(values: Iterable[float]) -> Histogram:
    """The values with their counts, in ascending order."""
    return sorted(Counter(values).items())


def mean_of(counts: Histogram) -> float:
    """The mean; the sum is exactly rounded, so equal to that over single values in whatever order.

    Raises:
        ValueError: there are no values.
    """
    n = sum(count for _, count in counts)
    if n == 0:
        raise ValueError("a mean of no values is not defined")
    return math.fsum(chain.from_iterable(repeat(value, count) for value, count in counts)) / n


# ---------------------------------------------------------------------------------------------
# One share of 0/1 outcomes
# ---------------------------------------------------------------------------------------------


def log_binomial_pmf(k: int, n: int, rate: float) -> float:
    """log P(X = k) for X ~ Binomial(n, rate).

    Raises:
        ValueError: a rate that is not above 0 and below 1.
    """
    log_choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return log_choose + k * math.log(rate) + (n - k) * math.log1p(-rate)


def binomial_upper_tail(k: int, n: int, rate: float) -> float:
    """P(X >= k) for X ~ Binomial(n, rate)."""
    if k <= 0:
        return 1.0
    if k > n or rate <= 0.0:
        return 0.0
    if rate >= 1.0:
        return 1.0
    # The side that falls away from k is summed, so that no term is lost to underflow before the largest.
    if k >= n * rate:
        return _tail_from_the_mean_on(k, n, rate)
    # At most k - 1 successes are at least n - k + 1 failures.
    return 1.0 - _tail_from_the_mean_on(n - k + 1, n, 1.0 - rate)


def _tail_from_the_mean_on(k: int, n: int, rate: float) -> float:
    """P(X >= k), for k >= 1 at or above the mean: at most 3/4, or ``rate ** n``, so no rounding lifts it above 1."""
    return math.exp(log_binomial_pmf(k, n, rate)) * _tail_over_first(k, n, rate)


def _tail_over_first(k: int, n: int, rate: float) -> float:
    """P(X >= k) / P(X = k), for k at or above the mean, by the ratios of neighbouring terms."""
    odds = rate / (1.0 - rate)
    total = term = 1.0
    for i in range(k, n):
        term *= (n - i) / (i + 1) * odds
        total += term
        if term < _NEGLIGIBLE:
            break
    return total


def binomial_p_at_least(successes: int, n: int, level: float) -> float:
    """One-sided exact p-value of H0 "the mean rate is at most ``level``"; small means that it is higher.

    Valid for independent outcomes whose rates differ: the tail at or above ``n * level + 1`` is
    largest when all rates are equal (Hoeffding 1956, theorem 5). Below that tail, where the theorem
    does not reach, the answer is 1.
    """
    _check_count(successes, n)
    if successes < n * level + 1:
        return 1.0
    return binomial_upper_tail(successes, n, level)


def binomial_p_at_most(successes: int, n: int, level: float) -> float:
    """One-sided exact p-value of H0 "the mean rate is at least ``level``"; see :func:`binomial_p_at_least`."""
    return binomial_p_at_least(n - successes, n, 1.0 - level)


def clopper_pearson_lower(successes: int, n: int, alpha: float) -> float:
    """One-sided lower confidence bound of a rate, at confidence ``1 - alpha`` (Clopper & Pearson 1934).

    The rate at which the upper tail is ``alpha``, by Newton's method in log tail over log rate. That
    function is concave and rises (its slope ``k / (tail / first term)`` falls as the rate rises), so
    every step after the first comes closer from below.
    """
    _check_count(successes, n)
    if successes == 0:
        return 0.0
    if successes == n:
        return alpha ** (1.0 / n)
    log_alpha = math.log(alpha)
    log_rate = math.log(successes / n)
    for _ in range(_NEWTON_STEPS):
        rate = math.exp(log_rate)
        ratio = _tail_over_first(successes, n, rate)
        excess = log_binomial_pmf(successes, n, rate) + math.log(ratio) - log_alpha
        step = excess * ratio / successes
        log_rate -= step
        if abs(step) < _NEWTON_TOLERANCE:
            break
    return math.exp(log_rate)


def clopper_pearson_upper(successes: int, n: int, alpha: float) -> float:
    """One-sided upper confidence bound of a rate, at confidence ``1 - alpha``."""
    return 1.0 - clopper_pearson_lower(n - successes, n, alpha)


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided Clopper-Pearson interval of a rate."""
    alpha = (1.0 - confidence) / 2.0
    return clopper_pearson_lower(successes, n, alpha), clopper_pearson_upper(successes, n, alpha)


# ---------------------------------------------------------------------------------------------
# Paired 0/1 outcomes
# ---------------------------------------------------------------------------------------------


def mcnemar_p_value(gains: int, losses: int) -> float:
    """One-sided exact p-value of H0 "gains are no more frequent than losses" (McNemar 1947).

    ``gains`` counts items that only the candidate got right, ``losses`` those that only the
    champion did. Given how many items changed, gains are Binomial(changed, 1/2) at the edge of H0,
    so the size is at most alpha at every n for items drawn alike. Items of several strata make it
    conservative in every configuration that the tests enumerate; a proof for all is not claimed.

    It cannot test a margin above zero; :func:`betting_test` does.
    """
    _check_count(gains, gains + losses)
    return binomial_upper_tail(gains, gains + losses, 0.5)


def mcnemar_lower_bound(gains: int, losses: int, n: int, alpha: float) -> float:
    """Lower bound of the mean difference, given how many of the ``n`` items changed.

    Positive exactly where :func:`mcnemar_p_value` is at most alpha: the share of gains among the
    changed items is bounded by Clopper-Pearson.
    """
    changed = gains + losses
    if changed == 0:
        return 0.0
    return (2.0 * clopper_pearson_lower(gains, changed, alpha) - 1.0) * changed / n


@lru_cache(maxsize=8192)  # it is shown beside every verdict, and few counts occur
def tango_interval(gains: int, losses: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of the difference of two paired proportions (Tango 1998). Shown, never binding.

    Reference: gains 40, losses 20, n 160 gives (0.0309, 0.2181) at 95%.
    """
    _check_count(gains + losses, n)
    z = _two_sided_quantile(confidence)
    observed = (gains - losses) / n
    lower = _last_true(lambda d: _tango_z(gains, losses, n, d) >= z, -1.0, observed)
    upper = -_last_true(lambda d: _tango_z(losses, gains, n, d) >= z, -1.0, -observed)
    return lower, upper


def cluster_robust_interval(source_means: Histogram, confidence: float = 0.95) -> tuple[float, float] | None:
    """Normal interval of the mean over sources, from their spread. Shown, never binding.

    ``sqrt(C/(C-1) sum (d_c - mean)^2) / C`` is Miller's clustered standard error (arXiv 2411.00640,
    appendix A) for sources of equal weight. None where there are fewer than two sources.
    """
    n = sum(count for _, count in source_means)
    if n < 2:
        return None
    mean = mean_of(source_means)
    squares = math.fsum(count * (value - mean) ** 2 for value, count in source_means)
    half = _two_sided_quantile(confidence) * math.sqrt(n / (n - 1) * squares) / n
    return max(-1.0, mean - half), min(1.0, mean + half)


def _tango_z(gains: int, losses: int, n: int, difference: float) -> float:
    """Score statistic of H0 "the difference is ``difference``"; the nuisance is its restricted MLE.

    ``difference`` is above -1 and below the observed one: there the variance is positive.
    """
    b = -gains - losses + (2 * n - gains + losses) * difference
    # b^2 - 8nc of Tango's quadratic, as a sum of what is not negative: its own terms cancel where n is large.
    discriminant = (gains - losses - (2 * n - gains - losses) * difference) ** 2
    discriminant += 4 * gains * losses * (1.0 - difference * difference)
    q = (math.sqrt(discriminant) - b) / (4 * n)
    variance = n * (2.0 * q + difference * (1.0 - difference))
    return (gains - losses - n * difference) / math.sqrt(variance)


# ---------------------------------------------------------------------------------------------
# Means of bounded differences: betting
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BettingResult:
    """What a betting test found. ``lower_bound`` clears ``null_mean`` exactly where it rejects."""

    n: int
    mean: float
    null_mean: float
    alpha: float
    log_e_value: float
    rejects: bool
    lower_bound: float


def bet_fraction(n: int, null_mean: float, alpha: float, expected_discordance: float = EXPECTED_DISCORDANCE) -> float:
    """Share of the largest admissible bet to stake on every item, between 0 and 0.9.

    ``sqrt(2 ln(1/alpha) / (n s2))`` is the bet that reaches 1/alpha at the smallest mean
    difference when squared differences average s2 (Waudby-Smith & Ramdas 2024, section 3). It
    depends on the design only, never on outcomes; that is what keeps the test valid.
    """
    stake = math.sqrt(2.0 * math.log(1.0 / alpha) / (n * expected_discordance))
    return min(MAX_BET_FRACTION, stake * (1.0 + null_mean))


def log_e_value(differences: Sequence[float], null_mean: float, fraction: float) -> float:
    """log of ``prod_i (1 + lambda (d_i - null_mean))`` with ``lambda = fraction / (1 + null_mean)``.

    ``differences`` has shape (item,), each in [-1, 1]; ``null_mean`` is in (-1, 1]. The sum is
    exactly rounded, so the order of the items cannot matter.
    """
    return log_e_value_of_counts(histogram(differences), null_mean, fraction)


def log_e_value_of_counts(counts: Histogram, null_mean: float, fraction: float) -> float:
    """:func:`log_e_value` on a histogram of the differences."""
    scale = fraction / (1.0 + null_mean)
    log1p = math.log1p
    return math.fsum([count * log1p(scale * (d - null_mean)) for d, count in counts])


def betting_test(
    differences: Sequence[float],
    null_mean: float,
    alpha: float,
    *,
    expected_discordance: float = EXPECTED_DISCORDANCE,
) -> BettingResult:
    """Test H0 "the mean difference is at most ``null_mean``" on differences in [-1, 1].

    Non-inferiority within a margin is ``null_mean = -margin``; superiority by one is
    ``null_mean = +margin``. H0 is rejected where the e-value (the wealth of a gambler who bets
    against H0 on every item, from 1) is at least ``1 / alpha``.

    Valid at every n, for any mixture of items. All factors are non-negative and items are
    independent, so the expected e-value is ``prod_i (1 + lambda (mu_i - null_mean))``; by the
    inequality of arithmetic and geometric means that is at most
    ``(1 + lambda (mean mu - null_mean)) ** n <= 1`` under H0, and Markov's inequality gives the
    size. For items drawn without replacement from a finite list, Maclaurin's inequality gives the
    same about the mean of the list. The price of asking for nothing more is power: about that of
    an exact test with a margin two points narrower, at n=120.

    Not covered: stopping early (:mod:`guards.gates.certainty`); here n is fixed by the draw.

    Raises:
        ValueError: no differences, one outside [-1, 1], or a null mean outside (-1, 1).
    """
    return betting_test_of_counts(histogram(differences), null_mean, alpha, expected_discordance=expected_discordance)


def betting_test_of_counts(
    counts: Histogram, null_mean: float, alpha: float, *, expected_discordance: float = EXPECTED_DISCORDANCE
) -> BettingResult:
    """:func:`betting_test` on a histogram of the differences."""
    n = sum(count for _, count in counts)
    if n == 0:
        raise ValueError("a mean of no differences is not defined")
    if not all(-1.0 <= d <= 1.0 for d, _ in counts):
        raise ValueError("differences must lie in [-1, 1]")
    if not -1.0 < null_mean < 1.0:
        raise ValueError("the null mean must lie in (-1, 1)")
    fraction = bet_fraction(n, null_mean, alpha, expected_discordance)
    log_e = log_e_value_of_counts(counts, null_mean, fraction)
    return BettingResult(
        n=n,
        mean=mean_of(counts),
        null_mean=null_mean,
        alpha=alpha,
        log_e_value=log_e,
        rejects=log_e >= log_wealth_needed(alpha),
        lower_bound=_betting_lower_bound(counts, alpha, fraction),
    )


def log_wealth_needed(alpha: float) -> float:
    """The log of the e-value from which on a null is rejected."""
    return math.log(1.0 / alpha) + _ROUNDING


def betting_lower_bound(differences: Sequence[float], alpha: float, fraction: float) -> float:
    """Largest mean that the same bet rejects: a lower confidence bound at ``1 - alpha``.

    With the fraction held, every factor is ``1 - f + f (1 + d) / (1 + m)``: it falls as the null
    mean m rises, so the rejected means are those below one point, found by bisection from below.
    """
    return _betting_lower_bound(histogram(differences), alpha, fraction)


def _betting_lower_bound(counts: Histogram, alpha: float, fraction: float) -> float:
    needed = log_wealth_needed(alpha)
    return _last_true(lambda m: log_e_value_of_counts(counts, m, fraction) >= needed, -1.0, 1.0)


# ---------------------------------------------------------------------------------------------


def _last_true(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Where ``holds`` stops being true between ``low`` and ``high``, from the side where it is true.

    ``low`` itself is never tried: it is the bound that needs no evidence.
    """
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        if middle <= low or middle >= high:
            break
        if holds(middle):
            low = middle
        else:
            high = middle
    return low


def _two_sided_quantile(confidence: float) -> float:
    """How many standard deviations an interval of this confidence reaches to either side."""
    return NormalDist().inv_cdf(1.0 - (1.0 - confidence) / 2.0)


def _check_count(k: int, n: int) -> None:
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is not a count")
