"""The fast enumeration says what guards.authoring.power and guards.statistics say."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from benchmarks.enumeration import (
    Stratum,
    betting_fewest,
    fewest_successes,
    gains_and_losses,
    mcnemar_fewest,
    rejected_mass,
    rejection_probability,
    successes_of_two_kinds,
    trinomial,
)
from benchmarks.interval_coverage import (
    clopper_pearson_bounds,
    clopper_pearson_coverage,
    composed_bound_coverage,
    mcnemar_bounds,
    tango_z,
)
from benchmarks.margin_nulls import SHAPES, betting_rejects, draw, robust_covers, sources
from guards.authoring.power import at_least_power, exact_size, mcnemar_power
from guards.statistics import (
    bet_fraction,
    betting_lower_bound,
    betting_test,
    binomial_p_at_least,
    clopper_pearson,
    cluster_robust_interval,
    histogram,
    mcnemar_lower_bound,
    mcnemar_p_value,
    tango_interval,
)


def counted(gains: int, losses: int, n: int) -> list[float]:
    return [1.0] * gains + [-1.0] * losses + [0.0] * (n - gains - losses)


@pytest.mark.parametrize("alpha", [0.05, 0.00625, 0.001])
def test_sizes_agree_with_guards(alpha: float) -> None:
    rng = random.Random(round(1 / alpha))
    for _ in range(25):
        n, margin = rng.randint(30, 400), rng.choice([-0.4, -0.1, -0.02, 0.02, 0.08, 0.1, 0.4])
        discordance = rng.uniform(abs(margin), 0.4)
        size = rejection_probability(betting_fewest(n, -margin, alpha), discordance, -margin)
        assert size == pytest.approx(exact_size(n, margin, discordance, alpha), abs=1e-12)
        of_mcnemar = rejection_probability(mcnemar_fewest(n, alpha), discordance, 0.0)
        assert of_mcnemar == pytest.approx(mcnemar_power(n, discordance, alpha, mean_difference=0.0), abs=1e-12)
        level = rng.choice([0.02, 0.3, 0.7, 0.95])
        from_successes = successes_of_two_kinds(n // 3, level, n - n // 3, level)[fewest_successes(n, level, alpha) :]
        assert float(from_successes.sum()) == pytest.approx(at_least_power(n, level, level, alpha), abs=1e-12)


def test_regions_end_where_the_tests_themselves_turn() -> None:
    rng = random.Random(1)
    for _ in range(40):
        n, alpha, null = rng.randint(5, 240), rng.choice([0.05, 0.00625, 0.001]), rng.choice([-0.2, -0.08, 0.0, 0.05])
        changed = rng.randint(0, n)
        for fewest, rejects in (
            (betting_fewest(n, null, alpha), lambda g: betting_test(counted(g, changed - g, n), null, alpha).rejects),  # noqa: B023
            (mcnemar_fewest(n, alpha), lambda g: mcnemar_p_value(g, changed - g) <= alpha),  # noqa: B023
        ):
            least = int(fewest[changed])
            assert least > changed or rejects(least)
            assert least == 0 or not rejects(least - 1)
        least = fewest_successes(n, 0.7, alpha)
        assert least > n or binomial_p_at_least(least, n, 0.7) <= alpha
        assert binomial_p_at_least(least - 1, n, 0.7) > alpha


def test_items_of_several_kinds_are_enumerated() -> None:
    kinds = [Stratum(2, 0.3, 0.1), Stratum(1, 0.0, 0.6), Stratum(1, 1.0, 0.0)]
    expected = np.zeros((5, 5))
    items = [(kind.gain, kind.loss, 1.0 - kind.gain - kind.loss) for kind in kinds for _ in range(kind.n_items)]
    for outcome in itertools.product(range(3), repeat=len(items)):
        mass = math.prod(item[one] for item, one in zip(items, outcome, strict=True))
        expected[outcome.count(0), outcome.count(1)] += mass
    got = gains_and_losses(kinds)
    shape = np.minimum(got.shape, 5)
    assert got[: shape[0], : shape[1]] == pytest.approx(expected[: shape[0], : shape[1]], abs=1e-15)
    region = np.array([5, 1, 1, 2, 3])
    rejected = sum(expected[g, c] for g in range(5) for c in range(5 - g) if g >= region[g + c])
    assert rejected_mass(got, region) == pytest.approx(rejected, abs=1e-15)


def test_kinds_that_are_alike_are_one_kind() -> None:
    region = betting_fewest(300, -0.08, 0.05)
    mass = gains_and_losses([Stratum(100, 0.06, 0.14), Stratum(200, 0.06, 0.14)])
    assert rejected_mass(mass, region) == pytest.approx(rejection_probability(region, 0.2, -0.08), abs=1e-13)
    assert float(trinomial(60, 0.2, -0.08).sum()) == pytest.approx(1.0, abs=1e-12)


def test_intervals_are_those_of_guards() -> None:
    n = 24
    lower, upper = clopper_pearson_bounds(n, 0.95, one_sided=False)
    for k in range(n + 1):
        assert (lower[k], upper[k]) == pytest.approx(clopper_pearson(k, n), abs=1e-9)
    bounds = mcnemar_bounds(n, 0.05)
    z = 1.959963984540054
    for gains, losses in itertools.product(range(n + 1), repeat=2):
        if gains + losses <= n:
            assert bounds[gains, losses] == pytest.approx(mcnemar_lower_bound(gains, losses, n, 0.05), abs=1e-9)
            low, high = tango_interval(gains, losses, n)
            for difference in (-0.31, -0.1, 0.0, 0.07, 0.4):
                if min(abs(difference - low), abs(difference - high)) > 1e-9:
                    assert (abs(tango_z(n, difference)[gains, losses]) <= z) == (low <= difference <= high)


def test_coverage_agrees_with_a_count_of_intervals() -> None:
    n = 24
    found = clopper_pearson_coverage(n, one_sided=False)
    intervals = [clopper_pearson(k, n) for k in range(n + 1)]
    covering = []
    for rate in np.linspace(0.001, 0.999, 999):
        mass = [math.comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(n + 1)]
        covering.append(sum(p for p, (low, high) in zip(mass, intervals, strict=True) if low <= rate <= high))
    assert found["mean"] == pytest.approx(sum(covering) / len(covering), abs=1e-9)
    assert 0.95 <= found["least"] <= min(covering) + 1e-9


def test_the_composed_bounds_coverage_agrees_with_a_count_of_bounds() -> None:
    n, alpha, share, discordance = 30, 0.05, 0.4, 0.3
    mean = (2 * share - 1) * discordance
    fraction = bet_fraction(n, 0.0, alpha)
    mass = trinomial(n, discordance, mean)
    covered = 0.0
    for gains, losses in itertools.product(range(n + 1), repeat=2):
        if gains + losses <= n:
            betting = betting_lower_bound(counted(gains, losses, n), alpha, fraction)
            rejects = mcnemar_p_value(gains, losses) <= alpha
            bound = max(0.0, betting) if rejects else min(0.0, betting)
            covered += float(mass[gains, losses]) * (bound <= mean)
    assert composed_bound_coverage(n, alpha, [share], [discordance])["least"] == pytest.approx(covered, abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_simulated_differences_have_the_mean_they_say_and_are_judged_as_guards_does(shape: str) -> None:
    differences = draw(shape, 4000, 60, -0.08, np.random.default_rng(1))
    assert differences.mean() == pytest.approx(-0.08, abs=0.006) and abs(differences).max() <= 1.0
    shifted = np.clip(differences[:40] + 0.09, -1.0, 1.0)
    expected = [betting_test(row.tolist(), -0.08, 0.05).rejects for row in shifted]
    assert betting_rejects(shifted, -0.08, 0.05).tolist() == expected


def test_the_cluster_robust_interval_is_that_of_guards() -> None:
    means = sources(200, 12, 6, 0.4, np.random.default_rng(2)).mean(axis=2)
    for true_mean in (0.0, 0.1):
        intervals = [cluster_robust_interval(histogram(row.tolist())) for row in means]
        expected = [interval is not None and interval[0] <= true_mean <= interval[1] for interval in intervals]
        assert robust_covers(means, true_mean).tolist() == expected
        assert any(expected) and not all(expected)
