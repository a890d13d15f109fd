"""Rules for accepting proposals, compared by simulating runs of 50 proposals.

``python -m benchmarks.acceptance_rules --out docs/results/acceptance_rules.json``; cut off, it goes on.

A run begins with a champion that answers half of all items. Each proposal is a change of it whose
true effect on the share of right answers is drawn: with probability 0.1 an improvement of 4 points,
0.6 a loss of 2 to 5 points, 0.3 nothing at all. About 10% of answers change. A rule sees 240 paired
outcomes and says whether the proposal becomes champion.

*Fresh*: new items at every look. *Reused*: the same 240 items at all 50 looks, and a proposer that
keeps what was promoted: half of the variance of its next change goes along the changes that got
promoted before, which on these very items may have been luck. True effects are the same.

How items answer: item i is right where ``m + r_i > 0``, with ``r_i`` standard normal over items. A change
sets ``r' = rho r + sqrt(1 - rho^2) z`` with z another standard normal and shifts m so that the true
effect is exact. All are weights over independent normals per item, so that what reuse selects on
these items is selected, and on new items is not.

Not covered: proposers that see more of a look than whether it promoted; costs other than items.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from benchmarks.enumeration import Floats
from benchmarks.units import Unit, compute
from guards.statistics import bet_fraction, clopper_pearson

ALPHA = 0.05
N_PROPOSALS = 50
N_ITEMS = 240
N_RUNS = 4_000
N_RUNS_NULL = 20_000
BATCH = 500
FEW_EVENTS = 100
DISCORDANCE = 0.1
KEPT = math.sqrt(0.5)
"""Weight of what was promoted before in an adaptive proposer's next change; its square is the variance."""
ROUNDING = 1e-12

Bools = NDArray[np.bool_]


class Look(NamedTuple):
    """What a rule may use: which look of the run it is (from 1), earlier promotions, and paired outcomes."""

    number: int
    promotions: NDArray[np.int64]  # shape (run,)
    differences: NDArray[np.int8]  # shape (run, item): 1 a gain, -1 a loss


class Verdict(NamedTuple):
    """Whether each run's proposal is promoted, and the items that were used to say so, shape (run,) both."""

    promotes: Bools
    n_used: NDArray[np.int64]


Rule = Callable[[Look], Verdict]
Schedule = Callable[[int], float]


# ---------------------------------------------------------------------------------------------
# Rules
# ---------------------------------------------------------------------------------------------


def even(planned: int) -> Schedule:
    return lambda look: ALPHA / planned if look <= planned else 0.0


def spending(cumulative: Callable[[float], float], planned: int) -> Schedule:
    """Increments of a cumulative spending function of the share of looks made."""
    return lambda look: cumulative(look / planned) - cumulative((look - 1) / planned) if look <= planned else 0.0


def pocock(share: float) -> float:
    return ALPHA * math.log(1.0 + (math.e - 1.0) * share)


def obrien_fleming(share: float) -> float:
    z = -float(special.ndtri(ALPHA / 2.0))
    return 2.0 * float(special.ndtr(-z / math.sqrt(share))) if share > 0.0 else 0.0


def unbounded(look: int) -> float:
    return 6.0 * ALPHA / (math.pi**2 * look**2)


def halved(schedule: Schedule) -> Schedule:
    """Each read of the holdout at half the last one's: 2^(r-1) histories of promotions lead to read r."""
    return lambda look: schedule(look) / 2.0 ** (look - 1)


def greedy(look: Look) -> Verdict:
    """Keep it if the score went up."""
    return _with_all_items(look, look.differences.sum(axis=1, dtype=np.int64) > 0)


def mcnemar(schedule: Schedule) -> Rule:
    """Exact McNemar at the look's alpha; no items are spent where none is left."""

    def rule(look: Look) -> Verdict:
        alpha = schedule(look.number)
        return _with_all_items(look, _mcnemar_p(look) <= alpha) if alpha > 0.0 else _nothing(look)

    return rule


def mcnemar_by_histories(schedule: Schedule) -> Rule:
    """For a reused holdout: alpha is divided over the histories with as many promotions so far, j of r - 1 looks.

    Half of it goes to no promotion, a quarter to one, and so on: 2^-(j+1) / C(r-1, j). Over all histories that
    sums to at most 1, whatever the proposer does with them.
    """

    def rule(look: Look) -> Verdict:
        alpha, j = schedule(look.number), look.promotions
        if alpha <= 0.0:
            return _nothing(look)
        share = 0.5 ** (j + 1) / special.binom(look.number - 1, j)
        return _with_all_items(look, _mcnemar_p(look) <= alpha * share)

    return rule


def e_process(schedule: Schedule) -> Rule:
    """Bet on item after item; promote once the wealth is 1/alpha, stop once that is out of reach.

    The method of PACE (arXiv 2606.08106) in our own terms: paired, anytime-valid at each decision's
    alpha. The bet is the fixed one of guards.statistics.
    """

    def rule(look: Look) -> Verdict:
        n_runs, n = look.differences.shape
        alpha = schedule(look.number)
        if alpha <= 0.0:
            return _nothing(look)
        bet, needed = bet_fraction(n, 0.0, alpha), math.log(1.0 / alpha) + ROUNDING
        log_wealth = np.cumsum(np.log1p(bet * np.array([-1.0, 0.0, 1.0]))[look.differences + 1], axis=1)
        reached = log_wealth >= needed
        hopeless = log_wealth + np.arange(n - 1, -1, -1) * math.log1p(bet) < needed
        ends = reached | hopeless
        ends[:, -1] = True
        end = ends.argmax(axis=1)
        return Verdict(reached[np.arange(n_runs), end], end + 1)

    return rule


def _mcnemar_p(look: Look) -> Floats:
    gains, losses = ((look.differences == d).sum(axis=1) for d in (1, -1))
    return np.where(gains > 0, special.betainc(np.maximum(gains, 1), losses + 1, 0.5), 1.0)


def _nothing(look: Look) -> Verdict:
    n_runs = len(look.differences)
    return Verdict(np.zeros(n_runs, bool), np.zeros(n_runs, np.int64))


def _with_all_items(look: Look, promotes: Bools) -> Verdict:
    return Verdict(promotes, np.full(len(promotes), look.differences.shape[1]))


RULES: Mapping[str, Rule] = {
    "greedy": greedy,
    "fixed 5%": mcnemar(lambda _: ALPHA),
    "even, 8 planned": mcnemar(even(8)),
    "even, 50 planned": mcnemar(even(50)),
    "pocock, 50 planned": mcnemar(spending(pocock, 50)),
    "obrien-fleming, 50 planned": mcnemar(spending(obrien_fleming, 50)),
    "unbounded": mcnemar(unbounded),
    "e-process, 5% a decision": e_process(lambda _: ALPHA),
    "e-process, even, 50 planned": e_process(even(50)),
}
HOLDOUT_RULES: Mapping[str, Rule] = {
    "even, 8 planned, halved each read": mcnemar(halved(even(8))),
    "even, 50 planned, halved each read": mcnemar(halved(even(50))),
    "even, 8 planned, by histories": mcnemar_by_histories(even(8)),
    "even, 50 planned, by histories": mcnemar_by_histories(even(50)),
}
HOSTILE = (
    ("fixed 5%", 50),
    ("even, 50 planned", 50),
    ("e-process, even, 50 planned", 50),
    ("even, 50 planned, halved each read", 50),
    ("even, 50 planned, by histories", 50),
    ("even, 8 planned", 8),
    ("even, 8 planned, halved each read", 8),
    ("even, 8 planned, by histories", 8),
)
"""Rules to be attacked on a reused holdout, and the looks of the attack."""


# ---------------------------------------------------------------------------------------------
# Runs
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """What proposals are like and which items they meet."""

    reused: bool
    p_improves: float = 0.1
    p_harms: float = 0.6
    n_items: int = N_ITEMS

    def effects(self, n_runs: int, rng: np.random.Generator) -> Floats:
        """True effects, shape (run, proposal)."""
        u = rng.random((n_runs, N_PROPOSALS))
        harm = -rng.uniform(0.02, 0.05, u.shape)
        return np.where(u < self.p_improves, 0.04, np.where(u < self.p_improves + self.p_harms, harm, 0.0))


def simulate(rule: Rule, setting: Setting, n_runs: int, rng: np.random.Generator) -> dict[str, Floats]:
    """Per run: false and harmful promotions, missed improvements, items used, true and reported change."""
    rho = math.cos(math.pi * DISCORDANCE)
    effects = setting.effects(n_runs, rng)
    n_basis = N_PROPOSALS + 1
    runs = np.arange(n_runs)
    champion = np.zeros((n_runs, n_basis))  # weights over the independent normals; the first is the root's own
    champion[:, 0] = 1.0
    kept = np.zeros((n_runs, n_basis))
    accuracy = np.full(n_runs, 0.5)
    noise = rng.standard_normal((n_runs, n_basis, setting.n_items), dtype=np.float32) if setting.reused else None
    promotions = np.zeros(n_runs, np.int64)
    counted = {name: np.zeros(n_runs) for name in ("false", "harmful", "missed", "improving", "n_used", "reported")}
    for t in range(N_PROPOSALS):
        effect = effects[:, t]
        new_accuracy = np.clip(accuracy + effect, 0.01, 0.99)
        candidate, direction = _changed(champion, kept, t + 1, rho)
        if noise is None:
            old_r = rng.standard_normal((n_runs, setting.n_items), dtype=np.float32)
            new_r = rho * old_r + math.sqrt(1.0 - rho * rho) * rng.standard_normal(old_r.shape, dtype=np.float32)
        else:
            old_r, new_r = (np.matmul(w[:, None, :].astype(np.float32), noise)[:, 0, :] for w in (champion, candidate))
        old_right = old_r > -special.ndtri(accuracy)[:, None]
        new_right = new_r > -special.ndtri(new_accuracy)[:, None]
        differences = new_right.astype(np.int8) - old_right.astype(np.int8)
        verdict = rule(Look(t + 1, promotions, differences))
        promoted = verdict.promotes
        seen = np.cumsum(differences, axis=1, dtype=np.int64)[runs, np.maximum(verdict.n_used - 1, 0)]
        counted["false"] += promoted & (effect <= 0.0)
        counted["harmful"] += promoted & (effect < 0.0)
        counted["missed"] += ~promoted & (effect > 0.0)
        counted["improving"] += effect > 0.0
        counted["n_used"] += verdict.n_used
        counted["reported"] += np.where(promoted, seen / np.maximum(verdict.n_used, 1), 0.0)
        promotions = promotions + promoted
        champion = np.where(promoted[:, None], candidate, champion)
        kept = kept + promoted[:, None] * direction
        accuracy = np.where(promoted, new_accuracy, accuracy)
    return {**counted, "gain": accuracy - 0.5}


def hostile_last_look(rule: Rule, n_looks: int, n_runs: int, seed: int) -> dict[str, Any]:
    """How often the last proposal of a hostile run on a reused holdout passes, though it changes nothing on average.

    Every look compares with the same root. All proposals but the last improve by 4 points, along
    random directions; whether one passes says how lucky its direction is on these very items. The
    last goes along the sum of those that passed, without their improvement.
    """
    rho = math.cos(math.pi * DISCORDANCE)
    n_passed = n_found = 0
    for start in range(0, n_runs, BATCH):
        rng = np.random.default_rng([seed, start])
        n = min(BATCH, n_runs - start)
        root = rng.standard_normal((n, N_ITEMS))
        lucky = np.zeros((n, N_ITEMS))
        promotions = np.zeros(n, np.int64)
        for number in range(1, n_looks + 1):
            is_last = number == n_looks
            norm = np.sqrt(np.maximum(promotions, 1))[:, None]
            fresh = rng.standard_normal((n, N_ITEMS))
            direction = np.where((promotions > 0)[:, None], lucky / norm, fresh) if is_last else fresh
            m = 0.0 if is_last else float(special.ndtri(0.54))
            changed = rho * root + math.sqrt(1.0 - rho * rho) * direction
            differences = (changed > -m).astype(np.int8) - (root > 0.0).astype(np.int8)
            passed = rule(Look(number, promotions, differences)).promotes
            if is_last:
                n_passed += int(passed.sum())
            else:
                lucky += passed[:, None] * direction
                promotions = promotions + passed
        n_found += int(promotions.sum())
    return {
        "n_looks": n_looks,
        "count": n_passed,
        "n": n_runs,
        "share": n_passed / n_runs,
        "interval_95": list(clopper_pearson(n_passed, n_runs)),
        "passed_before": n_found / n_runs,
    }


def _changed(champion: Floats, kept: Floats, column: int, rho: float) -> tuple[Floats, Floats]:
    """The next proposal's weights and the direction in which it differs from the champion, both of unit length."""
    norm = np.linalg.norm(kept, axis=1, keepdims=True)
    has_kept = norm > 0.0
    direction = np.where(has_kept, KEPT * kept / np.where(has_kept, norm, 1.0), 0.0)
    direction[:, column] += np.where(has_kept[:, 0], math.sqrt(1.0 - KEPT**2), 1.0)
    direction -= (direction * champion).sum(axis=1, keepdims=True) * champion
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return rho * champion + math.sqrt(1.0 - rho * rho) * direction, direction


# ---------------------------------------------------------------------------------------------
# Results
# ---------------------------------------------------------------------------------------------


def mean_with_interval(values: Floats) -> dict[str, Any]:
    """Mean over runs with its normal 95% interval; n is the number of runs."""
    mean, half = float(values.mean()), 1.96 * float(values.std(ddof=1)) / math.sqrt(len(values))
    return {"mean": mean, "interval_95": [mean - half, mean + half], "n": len(values)}


def count_with_interval(values: Floats) -> dict[str, Any]:
    """:func:`mean_with_interval` of counts; of few events in all, the exact Poisson interval (Garwood 1936)."""
    found, total = mean_with_interval(values), int(values.sum())
    if total < FEW_EVENTS:
        low = float(stats.chi2.ppf(0.025, 2 * total)) / 2.0 if total else 0.0
        found["interval_95"] = [low / len(values), float(stats.chi2.ppf(0.975, 2 * total + 2)) / 2.0 / len(values)]
    return found


def compare(name: str, rule: Rule, setting: Setting, n_runs: int, seed: int) -> dict[str, Any]:
    """All figures of one rule in one setting."""
    parts = [
        simulate(rule, setting, min(BATCH, n_runs - start), np.random.default_rng([seed, start]))
        for start in range(0, n_runs, BATCH)
    ]
    counted = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    n_any = int((counted["false"] > 0).sum())
    return {
        "rule": name,
        "n_runs": n_runs,
        "false_in_first_batch": int(parts[0]["false"].sum()),  # for a quick check of the whole
        "false_per_run": count_with_interval(counted["false"]),
        "harmful_per_run": count_with_interval(counted["harmful"]),
        "runs_with_any_false": {
            "count": n_any,
            "n": n_runs,
            "share": n_any / n_runs,
            "interval_95": list(clopper_pearson(n_any, n_runs)),
        },
        "improving_per_run": float(counted["improving"].mean()),
        "missed_per_run": count_with_interval(counted["missed"]),
        "items_per_run": mean_with_interval(counted["n_used"]),
        "true_gain_points": mean_with_interval(100.0 * counted["gain"]),
        "reported_minus_true_points": mean_with_interval(100.0 * (counted["reported"] - counted["gain"])),
    }


def scenarios() -> dict[str, tuple[Mapping[str, Rule], Setting, int]]:
    """Name, rules, setting and number of runs of every comparison."""
    tested = {name: rule for name, rule in RULES.items() if name not in ("greedy", "fixed 5%")}
    return {
        "mixed, fresh items": (RULES, Setting(reused=False), N_RUNS),
        "mixed, reused holdout": ({**RULES, **HOLDOUT_RULES}, Setting(reused=True), N_RUNS),
        "mixed, fresh items, 960 a look": (tested, Setting(reused=False, n_items=960), N_RUNS),
        "null, fresh items": (RULES, Setting(reused=False, p_improves=0.0, p_harms=0.0), N_RUNS_NULL),
        "null, reused holdout": (
            {**RULES, **HOLDOUT_RULES},
            Setting(reused=True, p_improves=0.0, p_harms=0.0),
            N_RUNS,
        ),
    }


def units() -> dict[str, Unit]:
    """Every comparison and every attack, by name."""
    todo: dict[str, Unit] = {}
    for seed, (scenario, (rules, setting, n_runs)) in enumerate(scenarios().items()):
        for name, rule in rules.items():
            todo[f"{scenario}; {name}"] = partial(compare, name, rule, setting, n_runs, seed)
    for name, n_looks in HOSTILE:
        todo[f"hostile; {name}"] = partial(hostile_last_look, {**RULES, **HOLDOUT_RULES}[name], n_looks, N_RUNS, 99)
    return todo


def assemble(done: dict[str, Any]) -> dict[str, Any]:
    """One result from all units."""
    return {
        "command": "python -m benchmarks.acceptance_rules --out docs/results/acceptance_rules.json",
        "alpha": ALPHA,
        "proposals": N_PROPOSALS,
        "items_a_look": N_ITEMS,
        "discordance": DISCORDANCE,
        "scenarios": {
            scenario: [done[f"{scenario}; {name}"] for name in rules] for scenario, (rules, _, _) in scenarios().items()
        },
        "hostile": [{"rule": name, **done[f"hostile; {name}"]} for name, _ in HOSTILE],
    }


def main() -> None:
    """Simulate what is not there yet, and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    compute(units(), args.out, assemble)


if __name__ == "__main__":
    main()
