"""Exact size and power of the binding tests, by enumeration. No simulation, so no seed.

A gate that cannot pass when nothing changed is as broken as one that always passes. Policy tests
and the linter use this module to say so beforehand.

Outcomes are modelled as alike: each item is a gain, a loss or unchanged with fixed probabilities.
Not covered: items that differ. They make the betting test no more likely to pass a bad candidate
(its docstring says why); they may move power either way, mostly up.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from guards.statistics import (
    EXPECTED_DISCORDANCE,
    bet_fraction,
    binomial_p_at_least,
    log_binomial_pmf,
    mcnemar_p_value,
)

# The trinomial mass that enumeration may leave out, below anything that a decision could notice.
_NEGLIGIBLE = 1e-14


def exact_size(
    n: int, margin: float, discordance: float, alpha: float, *, expected_discordance: float = EXPECTED_DISCORDANCE
) -> float:
    """Probability that :func:`guards.statistics.betting_test` passes a candidate exactly at the margin.

    ``margin`` is the non-inferiority margin (the true mean difference is ``-margin``); a negative
    one is a superiority margin. ``discordance`` is the share of items whose outcome changes; it
    cannot be below ``abs(margin)``.
    """
    return betting_power(
        n, margin, discordance, alpha, mean_difference=-margin, expected_discordance=expected_discordance
    )


def betting_power(
    n: int,
    margin: float,
    discordance: float,
    alpha: float,
    *,
    mean_difference: float = 0.0,
    expected_discordance: float = EXPECTED_DISCORDANCE,
) -> float:
    """Probability that the betting test passes, for paired 0/1 outcomes.

    Items gain with probability ``(discordance + mean_difference) / 2`` and lose with
    ``(discordance - mean_difference) / 2``.
    """
    null_mean = -margin
    fraction = bet_fraction(n, null_mean, alpha, expected_discordance)
    scale = fraction / (1.0 + null_mean)
    needed = math.log(1.0 / alpha) + 1e-12
    log_gain, log_loss, log_same = (math.log1p(scale * (d - null_mean)) for d in (1.0, -1.0, 0.0))

    def rejects(gains: int, losses: int) -> bool:
        return gains * log_gain + losses * log_loss + (n - gains - losses) * log_same >= needed

    return _trinomial_probability(n, discordance, mean_difference, rejects)


def mcnemar_power(n: int, discordance: float, alpha: float, *, mean_difference: float) -> float:
    """Probability that ``superior_by`` 0 passes by :func:`guards.statistics.mcnemar_p_value`."""
    return _trinomial_probability(
        n, discordance, mean_difference, lambda gains, losses: mcnemar_p_value(gains, losses) <= alpha
    )


def at_least_power(n: int, level: float, rate: float, alpha: float) -> float:
    """Probability that ``at_least level`` passes when the true rate is ``rate``.

    ``at_most`` is the same question about the failures: ``at_least_power(n, 1 - level, 1 - rate, alpha)``.
    """
    return math.fsum(
        math.exp(log_binomial_pmf(k, n, rate)) for k in range(n + 1) if binomial_p_at_least(k, n, level) <= alpha
    )


def _trinomial_probability(
    n: int, discordance: float, mean_difference: float, rejects: Callable[[int, int], bool]
) -> float:
    """P(rejects(gains, losses)), enumerated over how many items changed and how many of those gained."""
    if not abs(mean_difference) <= discordance <= 1.0:
        raise ValueError("the discordance must lie between the mean difference and 1")
    gain_share = 0.5 if discordance == 0.0 else (1.0 + mean_difference / discordance) / 2.0
    terms: list[float] = []
    for changed in range(n + 1):
        log_changed = log_binomial_pmf(changed, n, discordance)
        if log_changed < math.log(_NEGLIGIBLE / (n + 1)):
            continue
        # More gains and fewer losses never hurt, so the fewest gains that reject settle the row.
        fewest = _first_true(lambda gains: rejects(gains, changed - gains), changed + 1)  # noqa: B023
        terms += [math.exp(log_changed + log_binomial_pmf(g, changed, gain_share)) for g in range(fewest, changed + 1)]
    return min(1.0, math.fsum(terms))


def _first_true(holds: Callable[[int], bool], end: int) -> int:
    """Smallest i in [0, end) with ``holds(i)``, which stays true once it is; ``end`` if there is none."""
    low, high = 0, end
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
