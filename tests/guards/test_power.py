"""Size and power by enumeration, against other ways to get the same numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from guards.authoring.power import (
    at_least_power,
    betting_fewest,
    betting_power,
    exact_size,
    fewest_successes,
    mcnemar_fewest,
    mcnemar_power,
    rejection_probability,
    size_where_change_is_concentrated,
)
from guards.statistics import bet_fraction, betting_test, binomial_p_at_least, mcnemar_p_value


def enumerated(n: int, gain: float, loss: float, passes) -> float:
    """P(passes(gains, losses)) with scipy's multinomial, over every cell."""
    cells = [(b, c, n - b - c) for b in range(n + 1) for c in range(n + 1 - b)]
    mass = stats.multinomial(n, [gain, loss, 1 - gain - loss]).pmf(cells)
    return float(sum(p for p, (b, c, _) in zip(mass, cells, strict=True) if passes(b, c)))


def first_that_passes(n: int, passes: Callable[[int, int], bool]) -> list[int]:
    """By how many of n items changed: the fewest gains of those, by trying all; one more than changed if none."""
    return [
        next((gains for gains in range(changed + 1) if passes(gains, changed - gains)), changed + 1)
        for changed in range(n + 1)
    ]


@pytest.mark.parametrize(
    ("n", "null_mean", "alpha"),
    [
        (60, -0.3, 0.2),  # it passes without any gain, and with one less than none it would
        # Sums within the last bits of the wealth asked for, where a quotient says one gain too many, or too few.
        (5, 0.0, 0.04038610734065964),
        (6, 0.1, 0.633572895302228),
        (2, -0.1, 0.4329004329008658),
    ],
)
def test_the_betting_region_is_that_of_the_test_to_the_last_bit(n: int, null_mean: float, alpha: float) -> None:
    def passes(gains: int, losses: int) -> bool:
        data = [1.0] * gains + [-1.0] * losses + [0.0] * (n - gains - losses)
        return betting_test(data, null_mean, alpha).rejects

    fewest = betting_fewest(n, null_mean, alpha, fraction=bet_fraction(n, null_mean, alpha))
    assert fewest.tolist() == first_that_passes(n, passes)


@pytest.mark.parametrize(("n", "alpha"), [(4, 1.0), (7, 0.5), (12, 0.05), (5, 1 / 32), (3, 0.001)])
def test_mcnemars_region_is_that_of_its_p_value(n: int, alpha: float) -> None:
    expected = first_that_passes(n, lambda gains, losses: mcnemar_p_value(gains, losses) <= alpha)
    assert mcnemar_fewest(n, alpha).tolist() == expected


@pytest.mark.parametrize(("n", "level"), [(2, 0.5), (7, 0.3), (12, 0.7)])
def test_a_p_value_of_exactly_alpha_passes(n: int, level: float) -> None:
    for successes in range(math.ceil(n * level + 1), n + 1):
        alpha = binomial_p_at_least(successes, n, level)
        assert fewest_successes(n, level, alpha) == successes
        assert fewest_successes(n, level, math.nextafter(alpha, 0.0)) == successes + 1
    assert fewest_successes(n, level, 1.0) == 0, "no p-value exceeds 1"


@pytest.mark.parametrize("n", [1, 30, 300, 1000])
def test_what_passes_everything_has_a_power_of_one_and_not_more(n: int) -> None:
    for discordance in (0.01, 0.1, 0.35, 0.7, 1.0):
        power = rejection_probability(np.zeros(n + 1, dtype=np.int64), discordance, 0.0)
        assert power == pytest.approx(1.0, abs=1e-11) and power <= 1.0


def test_what_passes_unless_every_item_changes_fails_that_often() -> None:
    assert rejection_probability(np.array([0, 0, 0, 4]), 0.5, 0.0) == pytest.approx(7 / 8)


def test_change_on_no_item_passes_where_no_gain_is_asked_for() -> None:
    assert size_where_change_is_concentrated(np.array([0, 2, 3]), 0, -0.1) == 1.0
    assert size_where_change_is_concentrated(np.array([1, 0, 0]), 0, -0.1) == 0.0
    assert size_where_change_is_concentrated(np.array([0, 1, 3]), 1, 0.0) == 0.5


def test_a_size_is_that_of_bets_for_the_discordance_that_is_expected() -> None:
    size = exact_size(60, 0.1, 0.3, 0.05, expected_discordance=0.4)
    assert size == betting_power(60, 0.1, 0.3, 0.05, mean_difference=-0.1, expected_discordance=0.4)
    assert size != exact_size(60, 0.1, 0.3, 0.05)


@pytest.mark.parametrize(("n", "margin", "alpha"), [(25, 0.2, 0.1), (30, 0.1, 0.2), (20, -0.1, 0.2)])
def test_betting_power_agrees_with_full_enumeration(n: int, margin: float, alpha: float) -> None:
    def passes(gains: int, losses: int) -> bool:
        data = [1.0] * gains + [-1.0] * losses + [0.0] * (n - gains - losses)
        return betting_test(data, -margin, alpha).rejects

    for discordance, mean in ((0.2, 0.0), (0.5, -0.1), (0.4, 0.3)):
        expected = enumerated(n, (discordance + mean) / 2, (discordance - mean) / 2, passes)
        assert betting_power(n, margin, discordance, alpha, mean_difference=mean) == pytest.approx(expected, abs=1e-9)
    at_margin = enumerated(n, (0.4 - margin) / 2, (0.4 + margin) / 2, passes)
    assert exact_size(n, margin, 0.4, alpha) == pytest.approx(at_margin, abs=1e-9)


def test_mcnemar_power_agrees_with_full_enumeration() -> None:
    expected = enumerated(40, 0.2, 0.05, lambda b, c: mcnemar_p_value(b, c) <= 0.05)
    assert mcnemar_power(40, 0.25, 0.05, mean_difference=0.15) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("n", "level", "rate", "alpha"), [(120, 0.7, 0.85, 0.00625), (50, 0.9, 0.98, 0.05)])
def test_at_least_power_agrees_with_scipy(n: int, level: float, rate: float, alpha: float) -> None:
    critical = next(k for k in range(n + 2) if stats.binom.sf(k - 1, n, level) <= alpha)
    assert at_least_power(n, level, rate, alpha) == pytest.approx(stats.binom.sf(critical - 1, n, rate), abs=1e-9)


def test_no_change_at_all_passes_where_n_is_large_enough_and_not_below() -> None:
    assert betting_power(100, 0.1, 0.0, 0.05) == 1.0
    assert betting_power(10, 0.1, 0.0, 0.05) == 0.0


def test_power_rises_with_items_and_margin_and_falls_with_discordance() -> None:
    def power(n: int = 120, margin: float = 0.1, discordance: float = 0.06) -> float:
        return betting_power(n, margin, discordance, 0.025)

    assert power(n=60) < power() < power(n=240)
    assert power(margin=0.05) < power() < power(margin=0.15)
    assert power(discordance=0.2) < power() < power(discordance=0.02)


@pytest.mark.parametrize(("truths", "most"), [((0.01, 0.02, 0.06, 0.1), 0.07), ((0.2,), 0.15)])
def test_the_bets_are_sized_well_for_what_occurs(truths: tuple[float, ...], most: float) -> None:
    regret = max(
        betting_power(n, margin, truth, alpha, expected_discordance=other) - betting_power(n, margin, truth, alpha)
        for n, margin in ((100, 0.12), (120, 0.1), (203, 0.06), (240, 0.08), (1000, 0.03))
        for alpha in (0.05, 0.025, 0.00625)
        for truth in truths
        for other in (0.03, 0.06, 0.09, 0.15, 0.2, 0.3)
    )
    assert regret < most


def test_an_impossible_discordance_is_refused() -> None:
    for discordance in (0.05, 1.1):
        with pytest.raises(ValueError, match="discordance"):
            exact_size(100, 0.1, discordance, 0.05)
