"""Exact probabilities of what the binding tests do, vectorised: thousands of cells a second.

The same sums as :mod:`guards.authoring.power` makes, with numpy and scipy in place of its loops, and for items
of several kinds besides. tests/benchmarks/ hold it to guards.authoring.power and to guards.statistics itself.

A test of paired 0/1 outcomes is given by ``fewest``, shape (changed + 1,): the fewest gains that
reject when that many items changed, or more than ``changed`` where none do. Every binding test has
this form, since one more gain in place of a loss never hurts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from guards.statistics import bet_fraction

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_ROUNDING = 1e-12  # as in guards.statistics: no test passes by less
_SIGMAS = 9.0  # counts further from their mean have a probability below 1e-17 and are left out


class Stratum(NamedTuple):
    """Items that are alike: how many, and the probabilities that one gains and that one loses."""

    n_items: int
    gain: float
    loss: float


# ---------------------------------------------------------------------------------------------
# Where tests reject
# ---------------------------------------------------------------------------------------------


def betting_fewest(n: int, null_mean: float, alpha: float, fraction: float | None = None) -> Ints:
    """Where :func:`guards.statistics.betting_test` rejects; ``fraction`` is the design's unless given.

    With another fraction: where the lower bound that this bet gives is at least ``null_mean``.
    """
    stake = bet_fraction(n, null_mean, alpha) if fraction is None else fraction
    scale = stake / (1.0 + null_mean)
    log_gain, log_loss, log_same = (math.log1p(scale * (d - null_mean)) for d in (1.0, -1.0, 0.0))
    needed = math.log(1.0 / alpha) + _ROUNDING
    changed = np.arange(n + 1)

    def rejects(gains: Ints) -> NDArray[np.bool_]:
        return gains * log_gain + (changed - gains) * log_loss + (n - changed) * log_same >= needed

    exact = (needed - changed * log_loss - (n - changed) * log_same) / (log_gain - log_loss)
    fewest = np.clip(np.ceil(exact), 0, changed + 1).astype(np.int64)
    # Rounding can put the quotient on the wrong side of an integer; the sum itself decides.
    fewest = np.where((fewest > 0) & rejects(fewest - 1), fewest - 1, fewest)
    return np.where((fewest <= changed) & ~rejects(fewest), fewest + 1, fewest)


def mcnemar_fewest(n: int, alpha: float) -> Ints:
    """Where :func:`guards.statistics.mcnemar_p_value` is at most ``alpha``."""
    changed = np.arange(n + 1)
    fewest = np.clip(stats.binom.isf(alpha, changed, 0.5) + 1, 0, changed + 1).astype(np.int64)
    # isf rounds too; the tail itself decides.
    fewest = np.where((fewest > 0) & (upper_tail(fewest - 1, changed, 0.5) <= alpha), fewest - 1, fewest)
    return np.where((fewest <= changed) & (upper_tail(fewest, changed, 0.5) > alpha), fewest + 1, fewest)


def fewest_successes(n: int, level: float, alpha: float) -> int:
    """Fewest of n that :func:`guards.statistics.binomial_p_at_least` rejects at; n + 1 where none do."""
    return int(fewest_successes_at(n, np.array([level]), alpha)[0])


def fewest_successes_at(n: int, levels: Floats, alpha: float) -> Ints:
    """:func:`fewest_successes` for several levels, shape (level,)."""
    fewest = np.clip(stats.binom.isf(alpha, n, levels) + 1, 1, n + 1).astype(np.int64)
    fewest = np.where(upper_tail(fewest - 1, n, levels) <= alpha, fewest - 1, fewest)
    fewest = np.where((fewest <= n) & (upper_tail(fewest, n, levels) > alpha), fewest + 1, fewest)
    reached = np.ceil(n * levels + 1).astype(np.int64)  # below, Hoeffding's theorem does not reach
    return np.minimum(n + 1, np.maximum(fewest, reached))


# ---------------------------------------------------------------------------------------------
# How often they do
# ---------------------------------------------------------------------------------------------


def rejection_probability(fewest: Ints, discordance: float, mean_difference: float) -> float:
    """P(a test rejects) when every item changes with ``discordance`` and the mean difference is as given."""
    n = len(fewest) - 1
    if discordance <= 0.0:
        return float(fewest[0] <= 0)
    low, mass = _changed_mass(n, discordance)
    changed = np.arange(low, low + len(mass))
    share = min(1.0, max(0.0, (1.0 + mean_difference / discordance) / 2.0))
    return min(1.0, float(np.dot(mass, upper_tail(fewest[low : low + len(mass)], changed, share))))


@functools.lru_cache(maxsize=512)
def _changed_mass(n: int, discordance: float) -> tuple[int, Floats]:
    """Distribution of the number of changed items: the least count that is kept, and probabilities from there."""
    spread = _SIGMAS * math.sqrt(n * discordance * (1.0 - discordance)) + 20.0
    low, high = max(0, math.floor(n * discordance - spread)), min(n, math.ceil(n * discordance + spread))
    return low, stats.binom.pmf(np.arange(low, high + 1), n, discordance)


def gains_and_losses(strata: Sequence[Stratum]) -> Floats:
    """Exact joint distribution of the numbers of gains and losses, shape (gain, loss).

    The product of the strata's characteristic functions, transformed back. Errors are about 1e-16
    per cell. The axes end where what lies beyond has a probability below 1e-17.
    """
    n_gains, n_losses = (_reach(strata, axis) for axis in (1, 2))
    wave_gain = np.exp(-2j * np.pi * np.arange(n_gains) / n_gains)[:, None]
    wave_loss = np.exp(-2j * np.pi * np.arange(n_losses // 2 + 1) / n_losses)[None, :]
    transform = np.ones((n_gains, n_losses // 2 + 1), complex)
    for n, gain, loss in strata:
        transform *= (1.0 - gain - loss + gain * wave_gain + loss * wave_loss) ** n
    return np.fft.irfft2(transform, s=(n_gains, n_losses))


def rejected_mass(mass: Floats, fewest: Ints) -> float:
    """P(a test rejects) under a joint distribution of gains and losses."""
    gains = np.arange(mass.shape[0])[:, None]
    changed = gains + np.arange(mass.shape[1])[None, :]
    within = changed < len(fewest)
    return float(mass[within & (gains >= fewest[np.minimum(changed, len(fewest) - 1)])].sum())


def successes_of_two_kinds(n_first: int, rate_first: float, n_second: int, rate_second: float) -> Floats:
    """Distribution of the number of successes among items of two kinds, shape (successes,)."""
    return np.convolve(
        stats.binom.pmf(np.arange(n_first + 1), n_first, rate_first),
        stats.binom.pmf(np.arange(n_second + 1), n_second, rate_second),
    )


def trinomial(n: int, discordance: float, mean_difference: float) -> Floats:
    """Joint distribution of gains and losses of items that are alike, shape (gain, loss), by its formula."""
    log_mass, same = _log_multinomial(n)
    gains, losses = np.arange(n + 1)[:, None], np.arange(n + 1)[None, :]
    rates = ((discordance + mean_difference) / 2.0, (discordance - mean_difference) / 2.0, 1.0 - discordance)
    for count, rate in zip((gains, losses, same), rates, strict=True):
        log_mass = log_mass + special.xlogy(count, max(rate, 0.0))
    return np.exp(log_mass)


@functools.lru_cache(maxsize=2)
def _log_multinomial(n: int) -> tuple[Floats, Ints]:
    """log n! / (gains! losses! same!), -inf where they exceed n, and same, shape (gain, loss) both."""
    log_factorial = special.gammaln(np.arange(n + 1) + 1.0)
    same = n - np.arange(n + 1)[:, None] - np.arange(n + 1)[None, :]
    within = np.maximum(same, 0)
    log_coefficient = log_factorial[n] - log_factorial[:, None] - log_factorial[None, :] - log_factorial[within]
    return np.where(same >= 0, log_coefficient, -np.inf), within


def upper_tail(k: Ints, n: Ints | int, rate: Floats | float) -> Floats:
    """P(X >= k) for X ~ Binomial(n, rate); 0 where k exceeds n."""
    # special.betainc, without its corners: from no successes on it is 1, above n it is 0.
    tail = special.betainc(np.maximum(k, 1), np.maximum(n - k + 1, 1), rate)
    return np.where(k <= 0, 1.0, np.where(k > n, 0.0, tail))


def _reach(strata: Sequence[Stratum], axis: int) -> int:
    """Number of counts to keep of gains (1) or losses (2), even, so that the rest is negligible."""
    mean = math.fsum(s.n_items * s[axis] for s in strata)
    spread = math.sqrt(math.fsum(s.n_items * s[axis] * (1.0 - s[axis]) for s in strata))
    certain = sum(s.n_items for s in strata if s[axis] > 0.0)
    reach = min(certain, math.ceil(mean + _SIGMAS * spread + 25.0)) + 1
    return reach + reach % 2
