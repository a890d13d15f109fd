"""Exact coverage of every interval and bound that Stairlock shows, by enumeration of all outcomes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special, stats

from benchmarks.enumeration import Floats, betting_fewest, mcnemar_fewest, rejection_probability, trinomial
from guards.statistics import bet_fraction

CONFIDENCE = 0.95
_EDGE = 1e-9  # coverage jumps at the ends of the intervals, so it is asked for on both sides of each
_SAME = 1e-12


def clopper_pearson_bounds(n: int, confidence: float, *, one_sided: bool) -> tuple[Floats, Floats]:
    """Lower and upper ends for 0 to n successes, from the beta distribution, shape (n + 1,) each."""
    alpha = (1.0 - confidence) if one_sided else (1.0 - confidence) / 2.0
    k = np.arange(n + 1)
    lower = np.where(k == 0, 0.0, stats.beta.ppf(alpha, np.maximum(k, 1), n - k + 1))
    upper = np.where(k == n, 1.0, stats.beta.isf(alpha, k + 1, np.maximum(n - k, 1)))
    return lower, upper


def clopper_pearson_coverage(n: int, *, one_sided: bool) -> dict[str, float]:
    """Least and mean coverage over all rates: a grid of 999, and both sides of each interval's ends."""
    lower, upper = clopper_pearson_bounds(n, CONFIDENCE, one_sided=one_sided)
    grid = np.linspace(0.001, 0.999, 999)
    ends = np.concatenate([grid, *(end + step for end in (lower, upper) for step in (-_EDGE, _EDGE))])
    rates = ends[(ends > 0.0) & (ends < 1.0)]
    # The successes whose intervals cover a rate are all those from `first` to before `end`.
    end = np.searchsorted(lower, rates, side="right")
    first = np.zeros_like(end) if one_sided else np.searchsorted(upper, rates, side="left")
    covered = special.bdtr(end - 1.0, n, rates) - np.where(first > 0, special.bdtr(first - 1.0, n, rates), 0.0)
    return {"least": float(covered.min()), "mean": float(covered[: len(grid)].mean()), "n_rates": len(rates)}


def tango_z(n: int, difference: float) -> Floats:
    """Tango's score statistic of every outcome, shape (gain, loss); see guards.statistics."""
    gains, losses = np.arange(n + 1)[:, None], np.arange(n + 1)[None, :]
    b = -gains - losses + (2 * n - gains + losses) * difference
    c = -losses * difference * (1.0 - difference)
    q = (np.sqrt(np.maximum(0.0, b * b - 8 * n * c)) - b) / (4 * n)
    variance = n * (2.0 * q + difference * (1.0 - difference))
    excess = gains - losses - n * difference
    with np.errstate(divide="ignore", invalid="ignore"):
        z = excess / np.sqrt(variance)
    return np.where(variance > 0.0, z, np.where(np.abs(excess) < _SAME, 0.0, np.copysign(np.inf, excess)))


def tango_size(n: int, margin: float, discordance: float, alpha: float) -> float:
    """Exact size of the test that would bind if Tango's lower bound did: P(z >= z_alpha) at the margin."""
    rejected = tango_z(n, -margin) >= stats.norm.isf(alpha)
    return float(trinomial(n, discordance, -margin)[rejected].sum())


def tango_coverage(n: int, differences: Sequence[float], discordances: Sequence[float]) -> dict[str, object]:
    """Two-sided coverage over all (difference, discordance) that go together."""
    z = stats.norm.isf((1.0 - CONFIDENCE) / 2.0)
    found: list[tuple[float, float, float]] = []
    for difference in differences:
        covers = np.abs(tango_z(n, difference)) <= z + _SAME
        for discordance in discordances:
            if discordance >= abs(difference) - _SAME:
                mass = trinomial(n, max(discordance, abs(difference)), difference)
                found.append((float(mass[covers].sum()), difference, discordance))
    least, difference, discordance = min(found)
    return {
        "least": least,
        "at": {"difference": difference, "discordance": discordance},
        "mean": math.fsum(one for one, _, _ in found) / len(found),
        "n_cells": len(found),
        "n_below": sum(one < CONFIDENCE for one, _, _ in found),
    }


def betting_bound_coverage(
    n: int, null_mean: float, alpha: float, differences: Sequence[float], discordances: Sequence[float]
) -> dict[str, object]:
    """Coverage of the lower bound that a gate with this null mean shows, over true differences and discordances.

    The bet is the gate's; the truth is anything. The bound exceeds the truth exactly where the same
    bet rejects the truth as null mean.
    """
    fraction = bet_fraction(n, null_mean, alpha)
    found: list[tuple[float, float, float]] = []
    for difference in differences:
        exceeds = betting_fewest(n, difference, alpha, fraction)
        for discordance in discordances:
            if discordance >= abs(difference) - _SAME:
                missed = rejection_probability(exceeds, max(discordance, abs(difference)), difference)
                found.append((1.0 - missed, difference, discordance))
    least, difference, discordance = min(found)
    return {
        "least": least,
        "at": {"difference": difference, "discordance": discordance},
        "mean": math.fsum(one for one, _, _ in found) / len(found),
        "n_cells": len(found),
    }


def mcnemar_bounds(n: int, alpha: float) -> Floats:
    """:func:`guards.statistics.mcnemar_lower_bound` of every outcome, shape (gain, loss); 2 where there is none."""
    gains, losses = np.arange(n + 1)[:, None], np.arange(n + 1)[None, :]
    changed = gains + losses
    share = np.where(gains == 0, 0.0, stats.beta.ppf(alpha, np.maximum(gains, 1), losses + 1))
    return np.where(changed > n, 2.0, np.where(changed == 0, 0.0, (2.0 * share - 1.0) * changed / n))


def mcnemar_bound_coverage(
    n: int, alpha: float, shares: Sequence[float], discordances: Sequence[float]
) -> dict[str, object]:
    """Coverage of McNemar's bound: given which items changed, and over all draws of items.

    ``shares`` are true shares of gains among changed items. *Given what changed* the mean difference
    is ``(2 share - 1) changed / n``. *Over all draws* it is ``(2 share - 1) discordance``; *where it
    passes* counts only bounds above 0 as wrong.
    """
    bounds = mcnemar_bounds(n, alpha)
    gains, losses = np.arange(n + 1)[:, None], np.arange(n + 1)[None, :]
    given: list[float] = []
    over_all: list[tuple[float, float, float]] = []
    passing: list[float] = []
    for share in shares:
        for n_changed in range(1, n + 1):
            k = np.arange(n_changed + 1)
            n_covering = np.count_nonzero(bounds[k, n_changed - k] <= (2.0 * share - 1.0) * n_changed / n + _SAME)
            given.append(float(special.bdtr(n_covering - 1.0, n_changed, share)))
        for discordance in discordances:
            mean = (2.0 * share - 1.0) * discordance
            mass = trinomial(n, discordance, mean)
            exceeds = (bounds > mean + _SAME) & (gains + losses <= n)
            over_all.append((1.0 - float(mass[exceeds].sum()), share, discordance))
            passing.append(1.0 - float(mass[exceeds & (bounds > 0.0)].sum()))
    least, share, discordance = min(over_all)
    return {
        "given_changed": {"least": min(given), "n_cells": len(given)},
        "over_draws": {"least": least, "at": {"share": share, "discordance": discordance}, "n_cells": len(over_all)},
        "over_draws_where_it_passes": {"least": min(passing), "n_cells": len(passing)},
    }


def composed_bound_coverage(
    n: int, alpha: float, shares: Sequence[float], discordances: Sequence[float]
) -> dict[str, object]:
    """Coverage over all draws of: max(0, betting bound) where McNemar rejects, else min(0, betting bound)."""
    fraction = bet_fraction(n, 0.0, alpha)
    rejects = mcnemar_fewest(n, alpha)
    found: list[tuple[float, float, float]] = []
    for share in shares:
        for discordance in discordances:
            mean = (2.0 * share - 1.0) * discordance
            exceeds = betting_fewest(n, mean, alpha, fraction)
            # Above 0 both must exceed, below 0 one is enough; at 0 the bound 0 still covers.
            missed = np.minimum(rejects, exceeds) if mean < -_SAME else np.maximum(rejects, exceeds)
            found.append((1.0 - rejection_probability(missed, discordance, mean), share, discordance))
    least, share, discordance = min(found)
    return {"least": least, "at": {"share": share, "discordance": discordance}, "n_cells": len(found)}
