"""Exact size and power of the binding tests, by enumeration. No simulation, so no seed.

A gate that cannot pass when nothing changed is as broken as one that always passes. Policy tests
and the linter use this module to say so beforehand (:mod:`guards.authoring.gate_power` asks it about gates).

Outcomes are modelled as alike: each item is a gain, a loss or unchanged with fixed probabilities.
Items that differ make no test more likely to pass a bad candidate (their docstrings say why, and
:func:`size_of_strata` enumerates it); they may move power either way, mostly up.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from guards.statistics import (
    EXPECTED_DISCORDANCE,
    bet_fraction,
    binomial_p_at_least,
    binomial_upper_tail,
    log_wealth_needed,
    mcnemar_p_value,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Counts further from their mean have a probability below 1e-17, which no decision could notice.
_SIGMAS = 9.0
_COUNTS_BESIDE = 20


class Stratum(NamedTuple):
    """Items that are alike: how many, and with which probabilities one gains and one loses."""

    n_items: int
    gain: float
    loss: float


# ---------------------------------------------------------------------------------------------
# Where the tests reject: the fewest gains that do, by how many items changed
# ---------------------------------------------------------------------------------------------


def betting_fewest(n: int, null_mean: float, alpha: float, *, fraction: float) -> Ints:
    """Fewest gains at which the betting test rejects, shape (changed,) from 0 to ``n``; changed + 1 where none do."""
    scale = fraction / (1.0 + null_mean)
    log_gain, log_loss, log_same = (math.log1p(scale * (d - null_mean)) for d in (1.0, -1.0, 0.0))
    needed = log_wealth_needed(alpha)
    changed = np.arange(n + 1)
    at_no_gain = changed * log_loss + (n - changed) * log_same
    fewest = np.clip(np.ceil((needed - at_no_gain) / (log_gain - log_loss)), 0, changed + 1).astype(np.int64)

    def rejects(gains: Ints) -> NDArray[np.bool_]:
        return gains * log_gain + (changed - gains) * log_loss + (n - changed) * log_same >= needed

    # The quotient may round to the wrong side of an integer; the sum itself decides.
    fewest = np.where((fewest > 0) & rejects(fewest - 1), fewest - 1, fewest)
    return np.where((fewest <= changed) & ~rejects(fewest), fewest + 1, fewest)


def mcnemar_fewest(n: int, alpha: float) -> Ints:
    """Fewest gains at which the exact McNemar test rejects, as :func:`betting_fewest` has them."""
    fewest: list[int] = []
    gains = 0
    for changed in range(n + 1):
        # One more loss never helps, and one more gain never hurts: the count stays, or rises by one.
        while gains <= changed and mcnemar_p_value(gains, changed - gains) > alpha:
            gains += 1
        fewest.append(gains)
    return np.array(fewest)


def fewest_successes(n: int, level: float, alpha: float) -> int:
    """Fewest successes of ``n`` at which the exact binomial test rejects; ``n + 1`` where none do."""
    return bisect_left(range(n + 1), True, key=lambda k: binomial_p_at_least(k, n, level) <= alpha)


# ---------------------------------------------------------------------------------------------
# Paired outcomes
# ---------------------------------------------------------------------------------------------


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
    fraction = bet_fraction(n, -margin, alpha, expected_discordance)
    fewest = betting_fewest(n, -margin, alpha, fraction=fraction)
    return rejection_probability(fewest, discordance, mean_difference)


def mcnemar_power(n: int, discordance: float, alpha: float, *, mean_difference: float) -> float:
    """Probability that ``superior_by`` 0 passes by :func:`guards.statistics.mcnemar_p_value`."""
    # Rows that nearly never occur are not worth their tests.
    _, high = _likely(n, discordance)
    return rejection_probability(mcnemar_fewest(high, alpha), discordance, mean_difference, n)


def mcnemar_size(n: int, discordance: float, alpha: float) -> float:
    """Probability that ``superior_by`` 0 passes a candidate that is no better."""
    return mcnemar_power(n, discordance, alpha, mean_difference=0.0)


def rejection_probability(
    fewest: Ints, discordance: float, mean_difference: float, n_items: int | None = None
) -> float:
    """P(as many gains as ``fewest`` asks), enumerated over how many items changed and how many of those gained.

    ``fewest`` covers up to ``n_items`` changed items, or as many as are likely.

    Raises:
        ValueError: a discordance below the mean difference, or above 1.
    """
    if not abs(mean_difference) <= discordance <= 1.0:
        raise ValueError("the discordance must lie between the mean difference and 1")
    n = len(fewest) - 1 if n_items is None else n_items
    if discordance == 0.0:
        return float(fewest[0] <= 0)
    low, high = _likely(n, discordance)
    changed = np.arange(low, high + 1)
    gain_share = (1.0 + mean_difference / discordance) / 2.0
    mass = np.exp(_log_pmf(changed, n, discordance))
    return min(1.0, float(mass @ _upper_tails(fewest[low : high + 1], changed, gain_share)))


def size_of_strata(fewest: Ints, strata: Sequence[Stratum]) -> float:
    """P(as many gains as ``fewest`` asks) where items are of several kinds, exactly.

    The joint distribution of gains and losses is the product of the strata's characteristic
    functions, transformed back; an error of about 1e-16 per pair of counts remains.
    """
    n = sum(stratum.n_items for stratum in strata)
    wave = np.exp(-2j * np.pi * np.arange(n + 1) / (n + 1))
    transform = np.ones((n + 1, n + 1), dtype=np.complex128)
    for n_items, gain, loss in strata:
        transform *= (1.0 - gain - loss + gain * wave[:, None] + loss * wave[None, :]) ** n_items
    mass = np.fft.ifft2(transform).real
    gains = np.arange(n + 1)[:, None]
    changed = gains + np.arange(n + 1)[None, :]
    rejected = (changed <= n) & (gains >= fewest[np.minimum(changed, n)])
    return float(mass[rejected].sum())


def size_where_change_is_concentrated(fewest: Ints, n_changed: int, mean_difference: float) -> float:
    """P(as many gains as ``fewest`` asks) where the same ``n_changed`` items always change, and no others do."""
    n = len(fewest) - 1
    if n_changed == 0:
        return float(fewest[0] <= 0)
    gain_share = (1.0 + mean_difference * n / n_changed) / 2.0
    return binomial_upper_tail(int(fewest[n_changed]), n_changed, gain_share)


# ---------------------------------------------------------------------------------------------
# One share
# ---------------------------------------------------------------------------------------------


def at_least_power(n: int, level: float, rate: float, alpha: float) -> float:
    """Probability that ``at_least level`` passes when the true rate is ``rate``.

    ``at_most`` is the same question about the failures: ``at_least_power(n, 1 - level, 1 - rate, alpha)``.
    """
    return binomial_upper_tail(fewest_successes(n, level, alpha), n, rate)


def binomial_size(n: int, level: float, alpha: float) -> float:
    """Largest probability that ``at_least level`` passes where the mean rate is at most ``level``.

    Equal rates, each at the level, are the worst: the test rejects from ``n * level + 1`` successes
    on only, and there no unequal rates of this mean have a larger tail (Hoeffding 1956).
    """
    return at_least_power(n, level, level, alpha)


# ---------------------------------------------------------------------------------------------


def _likely(n: int, rate: float) -> tuple[int, int]:
    """Between which counts a Binomial(n, rate) lies, but for a negligible probability."""
    reach = _SIGMAS * math.sqrt(n * rate * (1.0 - rate)) + _COUNTS_BESIDE
    return max(0, math.floor(n * rate - reach)), min(n, math.ceil(n * rate + reach))


def _log_factorials(n: int) -> Floats:
    logs = np.zeros(n + 1)
    logs[1:] = np.log(np.arange(1, n + 1))
    np.cumsum(logs, out=logs)
    return logs


def _log_pmf(k: Ints, n: int, rate: float) -> Floats:
    log_factorial = _log_factorials(n)
    log_choose = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
    return log_choose + _times_log(k, rate) + _times_log(n - k, 1.0 - rate)


def _upper_tails(least: Ints, n: Ints, rate: float) -> Floats:
    """P(X >= least) for X ~ Binomial(n, rate), element by element."""
    log_factorial = _log_factorials(int(n.max()))
    # Up to where the terms are negligible: the mean's far side, or the tail's own fall.
    reach = np.minimum(n, np.ceil(np.maximum(least, n * rate) + _SIGMAS * np.sqrt(n * 0.25)) + _COUNTS_BESIDE)
    width = int(np.max(reach - least)) + 1
    k = least[:, None] + np.arange(width)[None, :]
    valid = k <= n[:, None]
    k = np.minimum(k, n[:, None])
    failures = n[:, None] - k
    log_choose = log_factorial[n][:, None] - log_factorial[k] - log_factorial[failures]
    log_mass = log_choose + _times_log(k, rate) + _times_log(failures, 1.0 - rate)
    return np.minimum(1.0, np.where(valid, np.exp(log_mass), 0.0).sum(axis=1)).astype(np.float64)


def _times_log(count: Ints, probability: float) -> Floats:
    """``count * log(probability)``, 0 for a count of 0 even where the probability is 0."""
    if probability > 0.0:
        return count * np.float64(math.log(probability))
    return np.where(count > 0, -np.inf, 0.0)
