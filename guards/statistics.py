"""The tests that gates bind on, and the intervals that they show.

Three tests bind. Each has size at most alpha at the actual number of items, under the assumptions
that its docstring states:

* :func:`binomial_p_at_least` (and at_most): a share of 0/1 outcomes against a fixed level;
* :func:`mcnemar_p_value`: more gains than losses among paired 0/1 outcomes;
* :func:`betting_test`: a mean of bounded (paired) differences against a margin.

Everywhere, items are independent of one another given the draw; they need not be alike.

:func:`tango_interval` is asymptotic (its test has size up to 5.8% at a nominal 5% for n=100, by
enumeration): it is shown to readers and never binds.

Not covered: items that depend on one another, such as paraphrases of one question; a suite must
not hold them, or must average them into one item first. And an effect inside one cluster that the
others cancel: declare a gate with ``clusters:`` for every part that must not get worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MAX_BET_FRACTION = 0.9
"""A bet never stakes more, so that one worst-case item cannot ruin the whole e-value."""

EXPECTED_DISCORDANCE = 0.12
"""Mean squared difference that bets are sized for. It affects power only, and never the size.

Chosen by enumeration: where the truth is 0.01 to 0.1, no other choice gains more than 7 points of
power, and 15 where it is 0.2 (tests/guards/test_power.py).
"""

# Two sums in floating point that are equal on paper may differ by this much; no test passes by less.
_ROUNDING = 1e-12
_BISECTIONS = 200


# ---------------------------------------------------------------------------------------------
# One share of 0/1 outcomes
# ---------------------------------------------------------------------------------------------


def log_binomial_pmf(k: int, n: int, rate: float) -> float:
    """log P(X = k) for X ~ Binomial(n, rate); ``-inf`` where that is impossible."""
    if rate <= 0.0 or rate >= 1.0:
        certain = 0 if rate <= 0.0 else n
        return 0.0 if k == certain else -math.inf
    log_choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return log_choose + k * math.log(rate) + (n - k) * math.log1p(-rate)


def binomial_upper_tail(k: int, n: int, rate: float) -> float:
    """P(X >= k) for X ~ Binomial(n, rate)."""
    if k <= 0:
        return 1.0
    return min(1.0, math.fsum(math.exp(log_binomial_pmf(i, n, rate)) for i in range(k, n + 1)))


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
    """One-sided lower confidence bound of a rate, at confidence ``1 - alpha`` (Clopper & Pearson 1934)."""
    _check_count(successes, n)
    if successes == 0:
        return 0.0
    return _last_true(lambda rate: binomial_upper_tail(successes, n, rate) <= alpha, 0.0, successes / n)


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


def tango_interval(gains: int, losses: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of the difference of two paired proportions (Tango 1998). Shown, never binding.

    Reference: gains 40, losses 20, n 160 gives (0.0309, 0.2181) at 95%.
    """
    _check_count(gains + losses, n)
    z = _normal_quantile(1.0 - (1.0 - confidence) / 2.0)
    observed = (gains - losses) / n
    lower = _last_true(lambda d: _tango_z(gains, losses, n, d) >= z, -1.0, observed)
    upper = -_last_true(lambda d: _tango_z(losses, gains, n, d) >= z, -1.0, -observed)
    return lower, upper


def _tango_z(gains: int, losses: int, n: int, difference: float) -> float:
    """Score statistic of H0 "the difference is ``difference``"; the nuisance is its restricted MLE."""
    b = -gains - losses + (2 * n - gains + losses) * difference
    c = -losses * difference * (1.0 - difference)
    q = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
    variance = n * (2.0 * q + difference * (1.0 - difference))
    excess = gains - losses - n * difference
    if variance <= 0.0:
        return math.copysign(math.inf, excess) if excess else 0.0
    return excess / math.sqrt(variance)


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
    scale = fraction / (1.0 + null_mean)
    return math.fsum(math.log1p(scale * (d - null_mean)) for d in differences)


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

    Not covered: stopping early. That needs items in exchangeable order; here n is fixed by the draw.

    Raises:
        ValueError: no differences, one outside [-1, 1], or a null mean outside (-1, 1).
    """
    if not differences:
        raise ValueError("a mean of no differences is not defined")
    if not all(-1.0 <= d <= 1.0 for d in differences):
        raise ValueError("differences must lie in [-1, 1]")
    if not -1.0 < null_mean < 1.0:
        raise ValueError("the null mean must lie in (-1, 1)")
    n = len(differences)
    fraction = bet_fraction(n, null_mean, alpha, expected_discordance)
    log_e = log_e_value(differences, null_mean, fraction)
    return BettingResult(
        n=n,
        mean=math.fsum(differences) / n,
        null_mean=null_mean,
        alpha=alpha,
        log_e_value=log_e,
        rejects=log_e >= math.log(1.0 / alpha) + _ROUNDING,
        lower_bound=betting_lower_bound(differences, alpha, fraction),
    )


def betting_lower_bound(differences: Sequence[float], alpha: float, fraction: float) -> float:
    """Largest mean that the same bet rejects: a lower confidence bound at ``1 - alpha``.

    With the fraction held, every factor is ``1 - f + f (1 + d) / (1 + m)``: it falls as the null
    mean m rises, so the rejected means are those below one point, found by bisection from below.
    """
    needed = math.log(1.0 / alpha) + _ROUNDING
    return _last_true(lambda m: log_e_value(differences, m, fraction) >= needed, -1.0, 1.0)


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


def _normal_quantile(probability: float) -> float:
    """Quantile of the standard normal distribution, by bisection on its distribution function."""
    return _last_true(lambda x: 0.5 * math.erfc(-x / math.sqrt(2.0)) < probability, -40.0, 40.0)


def _check_count(k: int, n: int) -> None:
    if n < 0 or not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is not a count")
