"""The committed figures of docs/statistics.md: a sample is computed again, and no test exceeds its alpha."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks import acceptance_rules, statistics_grid
from benchmarks.enumeration import (
    Stratum,
    betting_fewest,
    fewest_successes,
    gains_and_losses,
    mcnemar_fewest,
    rejected_mass,
    rejection_probability,
    successes_of_two_kinds,
)
from benchmarks.interval_coverage import tango_size
from benchmarks.policy_false_passes import default_policy_false_passes
from benchmarks.statistics_tables import PAGE, RESULTS, filled, load_results
from guards.authoring.power import at_least_power, exact_size, mcnemar_power
from guards.gates.alpha import LookPlan, alpha_of_look

GRID: dict[str, Any] = json.loads((RESULTS / "statistics.json").read_text(encoding="utf-8"))
DEFAULT_POLICY: list[dict[str, Any]] = json.loads((RESULTS / "default_policy.json").read_text(encoding="utf-8"))
RULES: dict[str, Any] = json.loads((RESULTS / "acceptance_rules.json").read_text(encoding="utf-8"))
SPENDING = [name for name in acceptance_rules.RULES if name.startswith(("even", "pocock", "obrien", "unbounded"))]


def cells(section: str) -> list[tuple[str, float, dict[str, Any]]]:
    return [(test, float(alpha), one) for test, of in GRID[section].items() for alpha, one in of.items()]


def close(value: Any) -> Any:
    """The value with numbers compared to a relative 1e-6: other builds of numpy round otherwise."""
    if isinstance(value, dict):
        return {key: close(one) for key, one in value.items()}
    if isinstance(value, list):
        return [close(one) for one in value]
    return pytest.approx(value, rel=1e-6, abs=1e-12) if isinstance(value, float) else value


def without_places(value: Any) -> Any:
    """The value without where an extreme was found: among equal ones, rounding decides."""
    if isinstance(value, dict):
        return {key: without_places(one) for key, one in value.items() if key != "at"}
    return [without_places(one) for one in value] if isinstance(value, list) else value


def test_the_tables_of_the_page_are_the_results() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.count("<!-- table: ") > 10
    assert filled(page, load_results()) == page, "run: python -m benchmarks.statistics_tables"


# ---------------------------------------------------------------------------------------------
# Size
# ---------------------------------------------------------------------------------------------


def test_no_binding_test_exceeds_its_alpha_anywhere_in_the_grid() -> None:
    found = [*cells("size"), *cells("size_of_kinds")]
    assert {test for test, _, _ in found} == {
        *("binomial", "mcnemar", "betting"),
        *("betting, non_inferior_within", "betting, superior_by"),
    }
    for test, alpha, one in found:
        assert 0.0 < one["largest"] <= alpha == one["alpha"] and one["n_above"] == 0, test
    n_sizes, n_shares = len(statistics_grid.SIZES_N), 20
    assert (statistics_grid.SIZES_N[0], statistics_grid.SIZES_N[-1]) == (30, 2000)
    for test, per_n in (("mcnemar", n_shares), ("binomial", 99), ("betting, superior_by", 210)):
        assert GRID["size"][test]["0.05"]["n_cells"] == n_sizes * per_n


@pytest.mark.parametrize(("test", "alpha", "one"), cells("size"), ids=str)
def test_the_largest_size_is_that_of_guards_power(test: str, alpha: float, one: dict[str, Any]) -> None:
    at = one["at"]
    if test == "binomial":
        size = at_least_power(at["n"], at["level"], at["level"], alpha)
    elif test == "mcnemar":
        size = mcnemar_power(at["n"], at["discordance"], alpha, mean_difference=0.0)
    else:
        size = exact_size(at["n"], at["margin"], at["discordance"], alpha)
    assert one["largest"] == pytest.approx(size, rel=1e-9)


def test_no_cell_of_a_sample_is_larger_than_the_largest() -> None:
    rng = random.Random(7)
    for _ in range(300):
        n, alpha = rng.choice(statistics_grid.SIZES_N), rng.choice(statistics_grid.ALPHAS)
        margin = rng.choice(statistics_grid.SHARES)
        discordance = rng.choice([share for share in statistics_grid.SHARES if share >= margin])
        for test, sign in (("betting, non_inferior_within", 1), ("betting, superior_by", -1)):
            size = rejection_probability(betting_fewest(n, -sign * margin, alpha), discordance, -sign * margin)
            assert size <= GRID["size"][test][str(alpha)]["largest"] * (1 + 1e-9)
        of_mcnemar = rejection_probability(mcnemar_fewest(n, alpha), discordance, 0.0)
        assert of_mcnemar <= GRID["size"]["mcnemar"][str(alpha)]["largest"] * (1 + 1e-9)
        level = rng.choice(statistics_grid.LEVELS)
        of_binomial = at_least_power(n, level, level, alpha)
        assert of_binomial <= GRID["size"]["binomial"][str(alpha)]["largest"] * (1 + 1e-9)


@pytest.mark.parametrize(("test", "alpha", "one"), cells("size_of_kinds"), ids=str)
def test_the_largest_size_of_items_that_differ_is_found_again(test: str, alpha: float, one: dict[str, Any]) -> None:
    at = one["at"]
    if test == "binomial":
        (n1, first), (n2, second) = at["kinds"]
        assert n1 * first + n2 * second == pytest.approx(at["n"] * at["level"])
        mass = successes_of_two_kinds(n1, first, n2, second)
        size = float(mass[fewest_successes(at["n"], at["level"], alpha) :].sum())
    else:
        kinds = [Stratum(*kind) for kind in at["kinds"]]
        mean = math.fsum(kind.n_items * (kind.gain - kind.loss) for kind in kinds) / at["n"]
        assert mean == pytest.approx(-at["margin"], abs=1e-12), "not at the edge of the null"
        region = mcnemar_fewest(at["n"], alpha) if test == "mcnemar" else betting_fewest(at["n"], mean, alpha)
        size = rejected_mass(gains_and_losses(kinds), region)
    assert one["largest"] == pytest.approx(size, rel=1e-6)


def test_tangos_test_exceeds_its_level_where_the_reference_says() -> None:
    found = {(one["n"], one["margin"]): one["size"] for one in GRID["tango_size"]["named_cells"]}
    assert found[50, 0.02] == pytest.approx(0.055, abs=5e-4) and found[100, 0.1] == pytest.approx(0.058, abs=5e-4)
    assert found[50, 0.02] == pytest.approx(tango_size(50, 0.02, 0.1, 0.05))
    assert found[100, 0.1] == pytest.approx(tango_size(100, 0.1, 0.1, 0.05))
    assert GRID["tango_size"]["n_above"] > 0


# ---------------------------------------------------------------------------------------------
# Power, coverage, published values, simulated nulls
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["power-textbook", "power-other", "published", "coverage-30", "kinds-mcnemar-30"])
def test_a_unit_computed_again_is_the_committed_one(unit: str) -> None:
    again = json.loads(json.dumps(statistics_grid.units()[unit]()))
    committed = {
        "power-textbook": lambda: GRID["power"]["textbook"],
        "power-other": lambda: {key: GRID["power"][key] for key in again},
        "published": lambda: GRID["published"],
        "coverage-30": lambda: GRID["coverage"]["30"],
        "kinds-mcnemar-30": lambda: None,
    }[unit]()
    if committed is None:  # kept only as part of a maximum over n
        for one in again:
            assert one["largest"] <= GRID["size_of_kinds"]["mcnemar"][str(one["alpha"])]["largest"] * (1 + 1e-9)
    else:
        assert without_places(again) == close(without_places(committed))


def test_textbook_sizes_are_the_published_ones() -> None:
    assert {row["n"] for row in GRID["power"]["textbook"]} == {1546, 6183}
    assert GRID["power"]["zero_failures_n"] == 299
    for row in GRID["power"]["textbook"]:
        if row["claim"].startswith("superior_by"):  # an exact test is a little below the normal approximation's 80%
            assert 0.77 < row["power"] < 0.8
    for row in GRID["power"]["mcnemar_gain_5_discordance_15"]:
        assert row["power"] == pytest.approx(row["reference"], abs=0.015)


def test_published_intervals_are_met_to_the_printed_digits() -> None:
    assert len(GRID["published"]) == 5
    for row in GRID["published"]:
        assert row["ours"] == pytest.approx(row["published"], abs=5e-5)


def test_what_is_said_to_cover_covers() -> None:
    for of_n in GRID["coverage"].values():
        assert of_n["clopper_pearson_two_sided"]["least"] >= 0.95
        assert of_n["clopper_pearson_lower"]["least"] >= 0.95
        assert of_n["mcnemar_lower"]["given_changed"]["least"] >= 0.95
        assert of_n["composed_lower"]["least"] >= 0.95
        assert all(one["least"] >= 0.95 for one in of_n["betting_lower"].values())
        # And what is said not to, does not: these stay out of decisions.
        assert of_n["tango_two_sided"]["least"] < 0.95 and of_n["mcnemar_lower"]["over_draws"]["least"] < 0.95


def test_simulated_nulls_at_the_margin_stay_below_alpha() -> None:
    found = GRID["nulls"]
    assert len(found["at_margin"]) == 20
    for one in [*found["at_margin"], *(s for s in found["sources"] if s["test"].startswith("betting"))]:
        assert one["n"] == 20_000 and one["rate"] == one["passed"] / one["n"]
        assert one["interval_95"][1] <= one["alpha"]
    as_if_independent = [s for s in found["sources"] if s["test"].startswith("McNemar")]
    assert all(one["interval_95"][0] > one["alpha"] for one in as_if_independent)


def test_no_gate_of_the_default_policy_passes_falsely_more_often_than_its_alpha() -> None:
    assert {(row["planned"], row["spending"]) for row in DEFAULT_POLICY} >= {(8, "even"), (50, "even")}
    for row in DEFAULT_POLICY:
        assert 0.0 < row["any_false_pass"] <= row["alpha"] and row["sum_of_alphas"] <= row["alpha"] + 1e-12


def test_the_default_policys_figures_are_those_of_the_policy_that_ships() -> None:
    assert json.loads(json.dumps(default_policy_false_passes())) == close(DEFAULT_POLICY), (
        "run: python -m benchmarks.policy_false_passes --out docs/results/default_policy.json"
    )


# ---------------------------------------------------------------------------------------------
# Acceptance rules
# ---------------------------------------------------------------------------------------------


def test_every_rule_was_run_often_enough_in_every_scenario() -> None:
    assert set(RULES["scenarios"]) == set(acceptance_rules.scenarios())
    for scenario, (rules, _, n_runs) in acceptance_rules.scenarios().items():
        found = RULES["scenarios"][scenario]
        assert [one["rule"] for one in found] == list(rules)
        assert all(one["n_runs"] == n_runs >= 2000 for one in found)


@pytest.mark.parametrize("scenario", ["mixed, fresh items", "null, fresh items"])
def test_the_first_batch_of_a_rule_is_found_again(scenario: str) -> None:
    seed = list(acceptance_rules.scenarios()).index(scenario)
    rules, setting, _ = acceptance_rules.scenarios()[scenario]
    quick = {"greedy", "even, 50 planned", "unbounded", "e-process, even, 50 planned"}
    for one in (one for one in RULES["scenarios"][scenario] if one["rule"] in quick):
        again = acceptance_rules.compare(one["rule"], rules[one["rule"]], setting, acceptance_rules.BATCH, seed)
        # Another build of numpy may round a normal near 0 to the other side.
        assert again["false_in_first_batch"] == pytest.approx(one["false_in_first_batch"], abs=3)


@pytest.mark.parametrize("rule", SPENDING)
def test_spending_rules_keep_the_run_to_alpha(rule: str) -> None:
    for scenario in ("null, fresh items", "null, reused holdout", "mixed, fresh items", "mixed, reused holdout"):
        found = next(one for one in RULES["scenarios"][scenario] if one["rule"] == rule)
        assert found["runs_with_any_false"]["interval_95"][1] <= RULES["alpha"], scenario


def test_rules_without_spending_do_not() -> None:
    for rule in ("greedy", "fixed 5%", "e-process, 5% a decision"):
        found = next(one for one in RULES["scenarios"]["null, fresh items"] if one["rule"] == rule)
        assert found["runs_with_any_false"]["interval_95"][0] > 10 * RULES["alpha"]


def test_only_divided_alphas_withstand_the_hostile_proposer() -> None:
    found = {one["rule"]: one for one in RULES["hostile"]}
    assert found["even, 50 planned"]["interval_95"][0] > RULES["alpha"] / 50
    for rule, one in found.items():
        if "halved" in rule or "histories" in rule:
            assert one["interval_95"][1] <= RULES["alpha"]


@pytest.mark.parametrize("spending", ["pocock", "obrien-fleming", "unbounded", "even"])
def test_the_schedules_are_those_of_guards(spending: Any) -> None:
    plan = LookPlan(50, {"gate": acceptance_rules.ALPHA}, spending)
    schedule = {
        "even": acceptance_rules.even(50),
        "pocock": acceptance_rules.spending(acceptance_rules.pocock, 50),
        "obrien-fleming": acceptance_rules.spending(acceptance_rules.obrien_fleming, 50),
        "unbounded": acceptance_rules.unbounded,
    }[spending]
    for look in (1, 2, 17, 50):
        assert schedule(look) == pytest.approx(float(alpha_of_look("gate", plan, (plan,) * (look - 1))), rel=1e-6)


def test_what_reuse_promotes_is_no_better_than_what_it_said_it_was() -> None:
    """A proposal without effect, promoted on a holdout, has no effect: the simulation does not reward luck."""
    setting = acceptance_rules.Setting(reused=True, p_improves=0.0, p_harms=0.0)
    found = acceptance_rules.compare("greedy", acceptance_rules.greedy, setting, 300, 5)
    assert found["true_gain_points"]["mean"] == 0.0
    assert found["reported_minus_true_points"]["interval_95"][0] > 1.0


# ---------------------------------------------------------------------------------------------
# All of it again
# ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_whole_grid_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "statistics.json"
    monkeypatch.setattr("sys.argv", ["statistics_grid", "--out", str(out)])
    statistics_grid.main()
    assert without_places(json.loads(out.read_text())) == close(without_places(GRID))


@pytest.mark.slow
def test_all_acceptance_rules_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "rules.json"
    monkeypatch.setattr("sys.argv", ["acceptance_rules", "--out", str(out)])
    acceptance_rules.main()
    again = json.loads(out.read_text())
    for scenario, found in RULES["scenarios"].items():
        for one, other in zip(found, again["scenarios"][scenario], strict=True):
            assert other["false_per_run"]["mean"] == pytest.approx(one["false_per_run"]["mean"], abs=0.01)
            assert other["missed_per_run"]["mean"] == pytest.approx(one["missed_per_run"]["mean"], abs=0.02)


def test_a_grid_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[str] = []

    def unit(name: str, *, fails: bool = False) -> Any:
        def compute() -> str:
            if fails:
                raise KeyboardInterrupt
            computed.append(name)
            return name

        return compute

    out = tmp_path / "statistics.json"
    monkeypatch.setattr("sys.argv", ["statistics_grid", "--out", str(out)])
    monkeypatch.setattr(statistics_grid, "assemble", lambda done: done)
    monkeypatch.setattr(statistics_grid, "units", lambda: {"one": unit("one"), "two": unit("two", fails=True)})
    with pytest.raises(KeyboardInterrupt):
        statistics_grid.main()
    assert not out.exists()
    monkeypatch.setattr(statistics_grid, "units", lambda: {"one": unit("one"), "two": unit("two")})
    statistics_grid.main()
    assert computed == ["one", "two"] and json.loads(out.read_text()) == {"one": "one", "two": "two"}
    assert [path.name for path in tmp_path.iterdir()] == ["statistics.json"]
