"""How often binding tests pass what lies exactly at the null, for scores that enumeration cannot reach.

Simulated: continuous, skewed and unequal differences at the margin, and items that share a source.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.enumeration import Floats, mcnemar_fewest
from guards.statistics import bet_fraction, clopper_pearson

N_REPEATS = 20_000
MARGIN = 0.08
ALPHAS = (0.05, 0.00625)
_BATCH = 2_000
_ROUNDING = 1e-12


def betting_rejects(differences: Floats, null_mean: float, alpha: float) -> NDArray[np.bool_]:
    """:func:`guards.statistics.betting_test` of every row; ``differences`` has shape (repeat, item)."""
    n = differences.shape[1]
    scale = bet_fraction(n, null_mean, alpha) / (1.0 + null_mean)
    return np.log1p(scale * (differences - null_mean)).sum(axis=1) >= math.log(1.0 / alpha) + _ROUNDING


def draw(shape: str, n_repeats: int, n: int, mean: float, rng: np.random.Generator) -> Floats:
    """Differences in [-1, 1] whose mean over the items is exactly ``mean``, shape (repeat, item)."""
    tilt = np.linspace(-0.15, 0.15, n)  # items differ: their own means spread evenly around the mean
    if shape == "continuous, items unequal":
        return mean + tilt + rng.uniform(-0.5, 0.5, (n_repeats, n))
    if shape == "normal noise of 0.1, as of log-likelihoods":
        return np.clip(mean + tilt + rng.normal(0.0, 0.1, (n_repeats, n)), -1.0, 1.0)
    if shape == "ternary, items unequal":
        discordance = np.linspace(0.2, 0.6, n)
        gain = (discordance + mean + tilt) / 2.0
        u = rng.random((n_repeats, n))
        return np.where(u < gain, 1.0, np.where(u < discordance, -1.0, 0.0))
    if shape == "rare total losses among small gains":
        loss = 0.12
        return np.where(rng.random((n_repeats, n)) < loss, -1.0, (mean + loss) / (1.0 - loss))
    if shape == "the same few items always lose":
        whole = math.floor(-mean * n)
        chance = np.where(np.arange(n) < whole, 1.0, np.where(np.arange(n) == whole, -mean * n - whole, 0.0))
        return np.where(rng.random((n_repeats, n)) < chance, -1.0, 0.0)
    raise ValueError(shape)


SHAPES = (
    "continuous, items unequal",
    "normal noise of 0.1, as of log-likelihoods",
    "ternary, items unequal",
    "rare total losses among small gains",
    "the same few items always lose",
)


def sources(
    n_repeats: int, n_sources: int, per_source: int, discordance: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Items in sources, without a true difference: with probability 0.8 an item does as its source does.

    Shape (repeat, source, item in the source), of -1, 0 and 1.
    """

    def outcomes(shape: tuple[int, ...]) -> NDArray[np.int64]:
        u = rng.random(shape)
        return np.where(u < discordance / 2.0, 1, np.where(u < discordance, -1, 0))

    own = outcomes((n_repeats, n_sources, per_source))
    shared = outcomes((n_repeats, n_sources, 1))
    return np.where(rng.random(own.shape) < 0.8, shared, own)


def simulated_nulls() -> dict[str, Any]:
    """Rates of false passes, each with its count and 95% interval."""
    found: dict[str, Any] = {"n_repeats": N_REPEATS, "margin": MARGIN, "at_margin": [], "sources": []}
    for index, shape in enumerate(SHAPES):
        for n in (60, 240):
            rng = np.random.default_rng([index, n])
            passed = dict.fromkeys(ALPHAS, 0)
            for _ in range(N_REPEATS // _BATCH):
                differences = draw(shape, _BATCH, n, -MARGIN, rng)
                for alpha in ALPHAS:
                    passed[alpha] += int(betting_rejects(differences, -MARGIN, alpha).sum())
            found["at_margin"] += [{"shape": shape, "n_items": n, **rate(passed[alpha], alpha)} for alpha in ALPHAS]
    for n_sources, per_source in ((40, 6), (120, 6), (120, 2)):
        rng = np.random.default_rng([n_sources, per_source])
        alpha = 0.05
        n_items = n_sources * per_source
        fewest = mcnemar_fewest(n_items, alpha)
        by_item = by_source = 0
        for _ in range(N_REPEATS // _BATCH):
            items = sources(_BATCH, n_sources, per_source, 0.2, rng)
            gains, losses = ((items == d).sum(axis=(1, 2)) for d in (1, -1))
            by_item += int((gains >= fewest[gains + losses]).sum())
            by_source += int(betting_rejects(items.mean(axis=2), 0.0, alpha).sum())
        layout = {"n_sources": n_sources, "per_source": per_source}
        found["sources"].append({**layout, "test": "McNemar on the items, as if independent", **rate(by_item, alpha)})
        found["sources"].append({**layout, "test": "betting on the means of sources", **rate(by_source, alpha)})
    return found


def cluster_robust_coverage() -> list[dict[str, Any]]:
    """How often :func:`guards.statistics.cluster_robust_interval` at 95% covers the true difference, which is 0."""
    found = []
    for n_sources, per_source in ((10, 6), (30, 6), (120, 6), (120, 2)):
        rng = np.random.default_rng([95, n_sources, per_source])
        n_covered = 0
        for _ in range(N_REPEATS // _BATCH):
            means = sources(_BATCH, n_sources, per_source, 0.2, rng).mean(axis=2)
            n_covered += int(robust_covers(means, 0.0).sum())
        covered = {"covered": n_covered, "n": N_REPEATS, "rate": n_covered / N_REPEATS}
        interval = list(clopper_pearson(n_covered, N_REPEATS))
        found.append({"n_sources": n_sources, "per_source": per_source, **covered, "interval_95": interval})
    return found


def robust_covers(means: Floats, true_mean: float) -> NDArray[np.bool_]:
    """Whether the cluster-robust interval of every row covers; ``means`` has shape (repeat, source)."""
    n = means.shape[1]
    half = stats.norm.isf(0.025) * means.std(axis=1, ddof=1) / math.sqrt(n)
    return np.abs(means.mean(axis=1) - true_mean) <= half


def rate(n_passed: int, alpha: float, n: int = N_REPEATS) -> dict[str, Any]:
    """A rate with what it was counted from and its Clopper-Pearson interval."""
    return {
        "alpha": alpha,
        "n": n,
        "passed": n_passed,
        "rate": n_passed / n,
        "interval_95": list(clopper_pearson(n_passed, n)),
    }
