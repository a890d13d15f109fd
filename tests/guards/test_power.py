"""Size and power by enumeration, against other ways to get the same numbers."""

from __future__ import annotations

import pytest
from scipy import stats

from guards.authoring.power import at_least_power, betting_power, exact_size, mcnemar_power
from guards.statistics import betting_test, mcnemar_p_value


def enumerated(n: int, gain: float, loss: float, passes) -> float:
    """P(passes(gains, losses)) with scipy's multinomial, over every cell."""
    cells = [(b, c, n - b - c) for b in range(n + 1) for c in range(n + 1 - b)]
    mass = stats.multinomial(n, [gain, loss, 1 - gain - loss]).pmf(cells)
    return float(sum(p for p, (b, c, _) in zip(mass, cells, strict=True) if passes(b, c)))


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
        with pytest.raises(ValueError):
            exact_size(100, 0.1, discordance, 0.05)
