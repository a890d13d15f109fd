"""Size and power of whole gates, for the linter: can it pass, and how often does it pass falsely?

Sizes are exact, over discordances and over items that are alike or not; a gate whose size exceeds its
alpha must not bind. Power is for a candidate of which nothing changed but the gain.

Joint power of several gates is not known without knowing how they depend on one another. It lies
between ``1 - sum (1 - power)`` (Bonferroni; Frechet's lower bound) and the smallest power; if they
were independent it would be the product.

Not covered: gates that read no scores. Means of sources, and scores between 0 and 1, are enumerated
where all of a source, or of a score, is won or lost: that is the largest spread, and the least power.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from guards.authoring.power import (
    Ints,
    at_least_power,
    betting_fewest,
    betting_power,
    binomial_size,
    mcnemar_fewest,
    mcnemar_power,
    rejection_probability,
    size_where_change_is_concentrated,
)
from guards.errors import EvidenceError
from guards.gates.judged_scores import PART_OF_BOUND, JudgeBounds, judge_bounds
from guards.policy import EvalGate, Judge
from guards.statistics import bet_fraction, binomial_upper_tail, log_e_value, log_wealth_needed

DISCORDANCES = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Shares of items that change, for which sizes are computed; the margin itself is added."""

_N_BOUNDS = 2


@dataclass(frozen=True)
class Unchanged:
    """A candidate of which nothing changed but the gain.

    ``discordance``: the share of items that change for no reason, as often for the better as for the
    worse. ``gain``: by how much it is better where superiority is asked. ``rate``: its true rate where
    a level is asked. ``spread``: how far single items of a metric with ``scale`` move, in its unit.
    """

    discordance: float = 0.06
    gain: float = 0.1
    rate: float = 1.0
    spread: float = 0.0


@dataclass(frozen=True)
class JointPower:
    """How often all of several gates pass: bounds that always hold, and the value for independent gates."""

    at_least: float
    independent: float
    at_most: float


def size_of_gate(
    gate: EvalGate,
    n: int,
    alpha: float,
    discordances: Sequence[float] = DISCORDANCES,
    *,
    judge: Judge | None = None,
) -> float:
    """Largest probability that the gate passes a candidate at the edge of its null, on ``n`` items or sources.

    Over the discordances; over the tests that its scores may call for (exact for single 0/1 scores,
    else betting); over items that are alike, and such of which the same ones always change. For judged
    scores the probability that a bound of the judge is wrong is added. 0 where the judge is too weak.
    """
    known = _known(gate, alpha, judge)
    if known is None:
        return 0.0
    bounds, alpha_of_test, null = known
    of_judge = 0.0 if bounds is None else _N_BOUNDS * PART_OF_BOUND * alpha
    if gate.level is not None:
        level = 1.0 - null if gate.claim == "at_most" else null
        sizes = [binomial_size(n, level, alpha_of_test)]
        if bounds is None:  # betting, with every score at 0 or 1
            sizes.append(_largest(_betting(n, 2.0 * level - 1.0, alpha_of_test), 2.0 * level - 1.0, [1.0]))
        return max(sizes) + of_judge
    shares = sorted({abs(null), *(d for d in discordances if d >= abs(null))} - {0.0})
    sizes = [_largest(_betting(n, null, alpha_of_test), null, shares)]
    if null == 0.0 and gate.scale is None:
        sizes.append(_largest(mcnemar_fewest(n, alpha_of_test), null, shares))
    return max(sizes) + of_judge


def power_of_gate(gate: EvalGate, n: int, alpha: float, candidate: Unchanged, *, judge: Judge | None = None) -> float:
    """Probability that the gate passes ``candidate`` on ``n`` items, or sources. 0 where the judge is too weak."""
    known = _known(gate, alpha, judge)
    if known is None:
        return 0.0
    bounds, alpha_of_test, null = known
    j = 1.0 if bounds is None else bounds.j
    if gate.level is not None:
        rate = candidate.rate if bounds is None else 1.0 - bounds.specificity + j * candidate.rate
        if gate.claim == "at_most":
            null, rate = 1.0 - null, 1.0 - rate
        if gate.group_by is None:
            return at_least_power(n, null, rate, alpha_of_test)
        return betting_power(n, 1.0 - 2.0 * null, 1.0, alpha_of_test, mean_difference=2.0 * rate - 1.0)
    gain = j * candidate.gain if gate.claim == "superior_by" else 0.0
    if gate.scale is not None:
        return _spread_power(n, null, gain / gate.scale, candidate.spread / gate.scale, alpha_of_test)
    discordance = min(1.0, abs(gain) + candidate.discordance)
    if null == 0.0 and gate.group_by is None:
        return mcnemar_power(n, discordance, alpha_of_test, mean_difference=gain)
    return betting_power(n, -null, discordance, alpha_of_test, mean_difference=gain)


def joint_power(powers: Iterable[float]) -> JointPower:
    """Of gates with these powers; no gates always pass."""
    powers = tuple(powers)
    missed = math.fsum(1.0 - power for power in powers)
    return JointPower(max(0.0, 1.0 - missed), math.prod(powers), min(powers, default=1.0))


def _known(gate: EvalGate, alpha: float, judge: Judge | None) -> tuple[JudgeBounds | None, float, float] | None:
    """(the judge, alpha of the test, the null as observed); None where the judge is too weak to pass anything."""
    if judge is not None:
        try:
            bounds = judge_bounds(judge, alpha)
        except EvidenceError:
            return None
        return bounds, bounds.alpha_of_test, bounds.observed_null(gate)
    if gate.level is not None:
        return None, alpha, gate.level
    margin = (gate.margin or 0.0) / (gate.scale or 1.0)
    return None, alpha, margin if gate.claim == "superior_by" else -margin


def _betting(n: int, null_mean: float, alpha: float) -> Ints:
    return betting_fewest(n, null_mean, alpha, fraction=bet_fraction(n, null_mean, alpha))


def _largest(fewest: Ints, null_mean: float, discordances: Sequence[float]) -> float:
    """Largest size over these discordances, for items that are alike and for change on the same items."""
    n = len(fewest) - 1
    sizes = [rejection_probability(fewest, share, null_mean) for share in discordances]
    for share in discordances:
        n_changed = min(n, math.ceil(share * n - 1e-9))
        sizes.append(size_where_change_is_concentrated(fewest, n_changed, null_mean))
    return max(sizes, default=0.0)


def _spread_power(n: int, null_mean: float, mean: float, spread: float, alpha: float) -> float:
    """P(the betting test rejects) where each difference is ``mean`` plus or minus ``spread``, evenly."""
    high, low = (max(-1.0, min(1.0, mean + sign * spread)) for sign in (1.0, -1.0))
    fraction = bet_fraction(n, null_mean, alpha)
    log_high, log_low = (log_e_value([d], null_mean, fraction) for d in (high, low))
    needed = log_wealth_needed(alpha)
    fewest = next((k for k in range(n + 1) if k * log_high + (n - k) * log_low >= needed), n + 1)
    return binomial_upper_tail(fewest, n, 0.5)
