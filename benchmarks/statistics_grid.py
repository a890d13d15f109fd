"""Exact size, power and coverage of what gates bind on and show, and nulls by simulation.

``python -m benchmarks.statistics_grid --out docs/results/statistics.json`` works in units, and keeps
each in ``<out>.units/`` as it is done; when it was cut off, the same command goes on. About a quarter of an hour
on one idle core. Then ``python -m benchmarks.statistics_tables`` renders the tables of docs/statistics.md.

Sizes are suprema over nuisance parameters on a grid, computed and not simulated: every cell is a
sum over all outcomes, leaving out a mass below 1e-17.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.enumeration import (
    Floats,
    Ints,
    Stratum,
    betting_fewest,
    fewest_successes,
    fewest_successes_at,
    gains_and_losses,
    mcnemar_fewest,
    rejected_mass,
    rejection_probability,
    successes_of_two_kinds,
    trinomial,
    upper_tail,
)
from benchmarks.interval_coverage import (
    betting_bound_coverage,
    clopper_pearson_coverage,
    composed_bound_coverage,
    mcnemar_bound_coverage,
    tango_coverage,
    tango_size,
    tango_z,
)
from benchmarks.margin_nulls import cluster_robust_coverage, simulated_nulls
from benchmarks.units import Unit, compute
from guards.statistics import binomial_p_at_least, clopper_pearson, tango_interval

ALPHAS = (0.05, 0.00625, 0.001)
SHARES = tuple(round(0.02 * i, 2) for i in range(1, 21))
"""2% to 40%: the margins, and the discordances."""
LEVELS = tuple(round(0.01 * i, 2) for i in range(1, 100))
SIZES_N = (*range(30, 1000), *range(1000, 2001, 5))
"""Every n to 1,000, and every fifth to 2,000."""
N_BLOCK = 50
SHOWN_N = (30, 60, 120, 240, 500, 1000, 2000)
SHOWN_MARGINS = (0.02, 0.06, 0.08, 0.1, 0.2, 0.4)
KINDS_N = (30, 60, 120, 240, 500, 1000)
KINDS_MARGINS = (0.02, 0.08, 0.2, -0.02, -0.08, -0.2)
N_RANDOM_KINDS = 1500
COVERAGE_N = (30, 60, 100, 240, 500)
DIFFERENCES = tuple(round(0.02 * i, 2) for i in range(-10, 11))
GAIN_SHARES = (0.0, 0.1, 0.3, 0.45, 0.49, 0.499, 0.5, 0.501, 0.51, 0.55, 0.7, 0.9, 1.0)


@dataclass
class Largest:
    """The largest of many sizes, where it is, and how many exceed alpha."""

    alpha: float
    size: float = -1.0
    at: dict[str, Any] = field(default_factory=dict)
    n_cells: int = 0
    n_above: int = 0

    def add(self, size: float, **at: Any) -> None:
        self.n_cells += 1
        self.n_above += size > self.alpha
        if size > self.size:
            self.size, self.at = size, at

    def result(self) -> dict[str, Any]:
        return {
            "alpha": self.alpha,
            "largest": self.size,
            "at": self.at,
            "n_cells": self.n_cells,
            "n_above": self.n_above,
        }


def merged(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One result from those of several units."""
    largest = max(parts, key=lambda part: part["largest"])
    totals = {name: sum(part[name] for part in parts) for name in ("n_cells", "n_above")}
    return {**largest, **totals}


# ---------------------------------------------------------------------------------------------
# Size, items alike
# ---------------------------------------------------------------------------------------------


def binomial_sizes(ns: Sequence[int]) -> list[dict[str, Any]]:
    """``at_least`` a level, the rate exactly at it. ``at_most`` is the same at one minus the level."""
    found = []
    levels = np.array(LEVELS)
    for alpha in ALPHAS:
        largest = Largest(alpha)
        for n in ns:
            sizes = upper_tail(fewest_successes_at(n, levels, alpha), n, levels)
            for level, size in zip(LEVELS, sizes, strict=True):
                largest.add(float(size), n=n, level=level)
        found.append(largest.result())
    return found


def mcnemar_sizes(ns: Sequence[int]) -> list[dict[str, Any]]:
    """``superior_by`` 0, no true difference."""
    found = []
    for alpha in ALPHAS:
        largest = Largest(alpha)
        for n in ns:
            fewest = mcnemar_fewest(n, alpha)
            for discordance in SHARES:
                largest.add(rejection_probability(fewest, discordance, 0.0), n=n, discordance=discordance)
        found.append(largest.result())
    return found


def betting_sizes(ns: Sequence[int], sign: int) -> list[dict[str, Any]]:
    """``non_inferior_within`` (sign 1) or ``superior_by`` (sign -1) a margin, the difference exactly at it."""
    found = []
    for alpha in ALPHAS:
        largest = Largest(alpha)
        for n, margin in itertools.product(ns, SHARES):
            for discordance, size in sizes_at_margin(n, sign * margin, alpha):
                largest.add(size, n=n, margin=sign * margin, discordance=discordance)
        found.append(largest.result())
    return found


def sizes_at_margin(n: int, margin: float, alpha: float) -> Iterator[tuple[float, float]]:
    """(discordance, exact size) of the betting test, for each discordance that the margin leaves possible."""
    fewest = betting_fewest(n, -margin, alpha)
    for discordance in SHARES:
        if discordance >= abs(margin):
            yield discordance, rejection_probability(fewest, discordance, -margin)


def shown_sizes() -> dict[str, Any]:
    """Largest size over the discordances, for the tables: by alpha, n and margin."""
    return {
        str(alpha): {
            str(n): {
                str(margin): max(size for _, size in sizes_at_margin(n, margin, alpha)) for margin in SHOWN_MARGINS
            }
            | {"mcnemar": max(rejection_probability(mcnemar_fewest(n, alpha), d, 0.0) for d in SHARES)}
            for n in SHOWN_N
        }
        for alpha in ALPHAS
    }


# ---------------------------------------------------------------------------------------------
# Size, items of several kinds
# ---------------------------------------------------------------------------------------------


def two_kinds(n: int, mean: float) -> Iterator[list[Stratum]]:
    """Two kinds of items, as different as they can be, whose mean difference is ``mean``."""
    for part, d1, d2, tilt in itertools.product(
        (0.05, 0.25, 0.5, 0.75), (0.02, 0.1, 0.4, 1.0), (0.0, 0.02, 0.1, 0.4, 1.0), (-1.0, -0.5, 0.0, 0.5, 1.0)
    ):
        n1 = max(1, round(part * n))
        m1 = tilt * d1
        m2 = (n * mean - n1 * m1) / (n - n1)
        if abs(m2) <= d2:
            yield [_stratum(n1, d1, m1), _stratum(n - n1, d2, m2)]
    for n1 in {math.ceil(n * abs(mean)), math.ceil(n * abs(mean)) + 1, 2 * math.ceil(n * abs(mean)), n // 2}:
        if max(1, math.ceil(n * abs(mean))) <= n1 < n:  # all change sits on a few items
            yield [_stratum(n1, 1.0, mean * n / n1), _stratum(n - n1, 0.0, 0.0)]


def random_kinds(rng: random.Random, n: int, mean: float) -> list[Stratum] | None:
    """Two to four kinds at random, whose mean difference is ``mean``; None where the draw cannot have it."""
    cuts = sorted(rng.sample(range(1, n), rng.randint(1, 3)))
    kinds = []
    for n_items in (b - a for a, b in itertools.pairwise([0, *cuts, n])):
        changes, gain_share = rng.betavariate(0.4, 0.8), rng.betavariate(0.4, 0.6)
        kinds.append(Stratum(n_items, changes * gain_share, changes * (1.0 - gain_share)))
    gains, losses = (math.fsum(kind.n_items * kind[axis] for kind in kinds) for axis in (1, 2))
    # Whichever of the two is too many is scaled down.
    if gains - losses > n * mean:
        fitting = (losses + n * mean) / gains
        kinds = [kind._replace(gain=kind.gain * fitting) for kind in kinds]
    elif losses > 0.0:
        fitting = (gains - n * mean) / losses
        kinds = [kind._replace(loss=kind.loss * fitting) for kind in kinds]
    else:
        return None
    return kinds if fitting >= 0.0 else None


def _stratum(n_items: int, discordance: float, mean: float) -> Stratum:
    return Stratum(n_items, max(0.0, (discordance + mean) / 2.0), max(0.0, (discordance - mean) / 2.0))


def sizes_of_kinds(n: int, margin: float) -> list[dict[str, Any]]:
    """Sizes at a margin (0: McNemar's test) for items of two kinds, and at n <= 60 of many random ones."""
    rng = random.Random(1000 * n + round(1000 * margin))
    drawn = (random_kinds(rng, n, -margin) for _ in range(N_RANDOM_KINDS if n <= 60 else 0))
    largest = [Largest(alpha) for alpha in ALPHAS]
    regions: list[Ints] = [mcnemar_fewest(n, a) if margin == 0.0 else betting_fewest(n, -margin, a) for a in ALPHAS]
    for kinds in itertools.chain(two_kinds(n, -margin), (one for one in drawn if one is not None)):
        mass: Floats = gains_and_losses(kinds)
        for one, region in zip(largest, regions, strict=True):
            one.add(rejected_mass(mass, region), n=n, margin=margin, kinds=[list(kind) for kind in kinds])
    return [one.result() for one in largest]


def binomial_sizes_of_kinds(n: int) -> list[dict[str, Any]]:
    """Sizes of the level test when items of two kinds have unequal rates."""
    found = []
    for alpha in ALPHAS:
        largest = Largest(alpha)
        for level, part, first in itertools.product(
            (0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95),
            (0.05, 0.25, 0.5, 0.75),
            (0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 1.0),
        ):
            n1 = max(1, round(part * n))
            second = (n * level - n1 * first) / (n - n1)
            if 0.0 <= second <= 1.0:
                mass = successes_of_two_kinds(n1, first, n - n1, second)
                size = float(mass[fewest_successes(n, level, alpha) :].sum())
                largest.add(size, n=n, level=level, kinds=[[n1, first], [n - n1, second]])
        found.append(largest.result())
    return found


# ---------------------------------------------------------------------------------------------
# What does not bind, and why; power; coverage
# ---------------------------------------------------------------------------------------------


def tango_sizes() -> dict[str, Any]:
    """Exact size of the test that Tango's lower bound would make at a nominal 5%."""
    largest = Largest(0.05)
    cells = []
    for n, margin in itertools.product((50, 100, 200, 400), (0.02, 0.04, 0.06, 0.08, 0.1, 0.2)):
        for discordance in SHARES:
            if discordance >= margin:
                size = tango_size(n, margin, discordance, 0.05)
                largest.add(size, n=n, margin=margin, discordance=discordance)
                if (n, margin, discordance) in ((50, 0.02, 0.1), (100, 0.1, 0.1)):
                    cells.append({"n": n, "margin": margin, "discordance": discordance, "size": size})
    return {**largest.result(), "named_cells": cells}


def textbook_n(difference: float, discordance: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """(z_alpha + z_beta)^2 discordance / difference^2, one-sided, rounded up."""
    z = stats.norm.isf(alpha) + stats.norm.isf(1.0 - power)
    return math.ceil(z * z * discordance / difference**2)


def fewest_items(power_at: Callable[[int], float], start: int, wanted: float = 0.8) -> int:
    """An n with at least the wanted power, where n - 1 has less: exact tests are not quite monotone in n."""
    low, high = start // 2, start
    while power_at(high) < wanted:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_at(middle) >= wanted else (middle, high)
    return high


def textbook_power() -> list[dict[str, Any]]:
    """Exact power at the textbook's sample sizes, and the items that the exact tests need for 80%."""

    def of_betting(n: int, difference: float) -> float:
        return rejection_probability(betting_fewest(n, -difference, 0.05), 0.1, 0.0)

    def of_mcnemar(n: int, difference: float) -> float:
        return rejection_probability(mcnemar_fewest(n, 0.05), 0.1, difference)

    rows = []
    for difference in (0.02, 0.01):
        n = textbook_n(difference, 0.1)
        for claim, power in (("non_inferior_within", of_betting), ("superior_by 0", of_mcnemar)):
            needed = fewest_items(lambda m: power(m, difference), n)  # noqa: B023
            rows.append(
                {"claim": claim, "difference": difference, "n": n, "power": power(n, difference), "n_for_80": needed}
            )
    return rows


def tango_power(n: int, margin: float, discordance: float, alpha: float = 0.05) -> float:
    """Power, when nothing changed on average, of the test that Tango's bound would make."""
    rejected = tango_z(n, -margin) >= stats.norm.isf(alpha)
    return float(trinomial(n, discordance, 0.0)[rejected].sum())


def price_of_betting() -> list[dict[str, Any]]:
    """Power of the betting test beside Tango's, which is a little too liberal to bind; truth 0."""
    rows = []
    for n, margin in ((120, 0.1), (120, 0.08), (240, 0.08), (240, 0.05), (500, 0.05), (500, 0.03), (1000, 0.03)):
        for discordance in (0.06, 0.1):
            betting = rejection_probability(betting_fewest(n, -margin, 0.05), discordance, 0.0)
            tango = tango_power(n, margin, discordance)
            rows.append({"n": n, "margin": margin, "discordance": discordance, "betting": betting, "tango": tango})
    return rows


def other_power() -> dict[str, Any]:
    """Zero failures for a rate above 99%, and McNemar's power where a simulated reference is known."""
    first = next(n for n in range(1, 1000) if binomial_p_at_least(n, n, 0.99) <= 0.05)
    mcnemar = [
        {
            "n": n,
            "alpha": alpha,
            "power": rejection_probability(mcnemar_fewest(n, alpha), 0.15, 0.05),
            "reference": reference,
        }
        for n, alpha, reference in (
            *((200, 0.05, 0.51), (200, 0.01, 0.24), (400, 0.05, 0.79)),
            *((400, 0.01, 0.55), (800, 0.05, 0.97), (800, 0.01, 0.90)),
        )
    ]
    return {"zero_failures_n": first, "mcnemar_gain_5_discordance_15": mcnemar}


def coverage(n: int) -> dict[str, Any]:
    """Coverage of every interval that is shown, at 95% (the betting bound: at the gate's alpha of 5%)."""
    return {
        "clopper_pearson_two_sided": clopper_pearson_coverage(n, one_sided=False),
        "clopper_pearson_lower": clopper_pearson_coverage(n, one_sided=True),
        "tango_two_sided": tango_coverage(n, DIFFERENCES, SHARES),
        "betting_lower": {
            str(null): betting_bound_coverage(n, null, 0.05, DIFFERENCES, SHARES) for null in (-0.08, 0.0, 0.05)
        },
        "mcnemar_lower": mcnemar_bound_coverage(n, 0.05, GAIN_SHARES, SHARES),
        "composed_lower": composed_bound_coverage(n, 0.05, GAIN_SHARES, SHARES),
    }


def published_values() -> list[dict[str, Any]]:
    """Values that were printed elsewhere, and ours."""
    tango = [
        (
            "Tango 1998 as given by the reference: gains 40, losses 20, n 160",
            [0.0309, 0.2181],
            tango_interval(40, 20, 160),
        )
    ]
    newcombe = [
        (f"Newcombe 1998, table I, exact: {k} of {n}", interval, clopper_pearson(k, n))
        for k, n, interval in (
            *((81, 263, [0.2527, 0.3676]), (15, 148, [0.0578, 0.1617])),
            *((0, 20, [0.0, 0.1684]), (1, 29, [0.0009, 0.1776])),
        )
    ]
    return [{"what": what, "published": printed, "ours": list(ours)} for what, printed, ours in (*tango, *newcombe)]


# ---------------------------------------------------------------------------------------------


def units() -> dict[str, Unit]:
    """Everything to be computed, by a name that is a file's too."""
    todo: dict[str, Unit] = {
        "power-textbook": textbook_power,
        "power-price": price_of_betting,
        "power-other": other_power,
        "published": published_values,
        "shown-sizes": shown_sizes,
        "tango-sizes": tango_sizes,
        "nulls": simulated_nulls,
        "coverage-of-sources": cluster_robust_coverage,
    }
    todo |= {f"coverage-{n}": lambda n=n: coverage(n) for n in COVERAGE_N}
    for n in KINDS_N:
        todo[f"kinds-binomial-{n}"] = lambda n=n: binomial_sizes_of_kinds(n)
        todo[f"kinds-mcnemar-{n}"] = lambda n=n: sizes_of_kinds(n, 0.0)
        for margin in KINDS_MARGINS:
            todo[f"kinds-betting-{n}-{margin}"] = lambda n=n, margin=margin: sizes_of_kinds(n, margin)
    for first in range(0, len(SIZES_N), N_BLOCK):
        ns = SIZES_N[first : first + N_BLOCK]
        start = ns[0]
        todo[f"size-binomial-{start}"] = lambda ns=ns: binomial_sizes(ns)
        todo[f"size-mcnemar-{start}"] = lambda ns=ns: mcnemar_sizes(ns)
        todo[f"size-betting-{start}-within"] = lambda ns=ns: betting_sizes(ns, 1)
        todo[f"size-betting-{start}-beyond"] = lambda ns=ns: betting_sizes(ns, -1)
    return todo


def assemble(done: dict[str, Any]) -> dict[str, Any]:
    """One result from all units."""

    def by_alpha(prefix: str, suffix: str = "") -> dict[str, Any]:
        parts = [value for name, value in done.items() if name.startswith(prefix) and name.endswith(suffix)]
        return {str(alpha): merged([part[i] for part in parts]) for i, alpha in enumerate(ALPHAS)}

    return {
        "command": "python -m benchmarks.statistics_grid --out docs/results/statistics.json",
        "grid": {
            "n": [SIZES_N[0], SIZES_N[-1], len(SIZES_N)],
            "margins_and_discordances": list(SHARES),
            "levels": [LEVELS[0], LEVELS[-1], len(LEVELS)],
            "kinds_n": list(KINDS_N),
            "kinds_margins": list(KINDS_MARGINS),
        },
        "size": {
            "binomial": by_alpha("size-binomial-"),
            "mcnemar": by_alpha("size-mcnemar-"),
            "betting, non_inferior_within": by_alpha("size-betting-", "-within"),
            "betting, superior_by": by_alpha("size-betting-", "-beyond"),
        },
        "size_of_kinds": {test: by_alpha(f"kinds-{test}-") for test in ("binomial", "mcnemar", "betting")},
        "size_shown": done["shown-sizes"],
        "tango_size": done["tango-sizes"],
        "power": {"textbook": done["power-textbook"], "price": done["power-price"], **done["power-other"]},
        "coverage": {str(n): done[f"coverage-{n}"] for n in COVERAGE_N},
        "coverage_of_sources": done["coverage-of-sources"],
        "published": done["published"],
        "nulls": done["nulls"],
    }


def main() -> None:
    """Compute what is not there yet, and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    compute(units(), args.out, assemble)


if __name__ == "__main__":
    main()
