"""Checks of a policy against its suites: can each gate pass at all, and what does it take?

A gate that cannot pass teaches people to ignore it, and so does one that holds every second good
candidate. For each eval gate the weakest condition is computed under which it passes four times
out of five, exactly, at the number of items that its suite draws and at each planned look's alpha
(:mod:`guards.power` says how items are modelled).

Not covered: whether the gates are strict enough; gates that read no scores; metrics without
bounds, where it depends on how much single items differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from guards.errors import ConfigError
from guards.policy import EvalGate, ResolvedPolicy
from guards.power import at_least_power, betting_power, mcnemar_power
from loop.suites import SEED_BYTES, Suite, draw_items, load_suite

GOOD_POWER = 0.8
# A harmless fine-tune changes this share of the answers at least; a gate that holds it for that is too narrow.
LEAST_TOLERATED_CHANGE = 0.02
# What one cycle gains at best; a gate that asks for more than its margin and this will not open.
LARGEST_USUAL_GAIN = 0.15
# Items that change although the candidate did not get better, while others gain.
_CHANGE_BESIDE_A_GAIN = 0.1
_STEPS = 12
_BEST_CASE = {
    "superior_by": "a candidate that gets better on every item",
    "non_inferior_within": "a candidate whose scores are all as before",
    "at_least": "a perfect candidate",
    "at_most": "a perfect candidate",
}


@dataclass(frozen=True)
class GateReach:
    """What it takes to pass an eval gate four times out of five; ``figure`` is the number in ``passes_if``."""

    gate_id: str
    line: int
    n_items: int
    passes_if: str
    figure: float | None
    is_narrow: bool


def check_policy(resolved: ResolvedPolicy) -> tuple[GateReach, ...]:
    """Every eval gate's reach, in the policy's order.

    Raises:
        ConfigError: ``policy.unknown-metric``, ``policy.unknown-cluster``, ``policy.too-few-items``
            or ``policy.cannot-pass``, at the gate's line; what :func:`loop.suites.load_suite` refuses.
        SuiteError: a suite from which nothing can be drawn.
    """
    folder = resolved.source.parent
    suites = {name: load_suite(folder / path) for name, path in resolved.policy.suites.items()}
    eval_gates = [gate for gate in resolved.policy.gates if isinstance(gate, EvalGate)]
    return tuple(_reach(gate, suites[gate.suite], resolved) for gate in eval_gates)


def _reach(gate: EvalGate, suite: Suite, resolved: ResolvedPolicy) -> GateReach:
    line = resolved.gate_lines[gate.id]
    where = f"{resolved.source}:{line}:1"
    if gate.metric not in suite.metrics:
        raise ConfigError(
            "policy.unknown-metric",
            f"{where}: the suite {gate.suite!r} has no metric {gate.metric!r}, so {gate.id} would stay inconclusive",
            got=gate.metric,
            expected=", ".join(suite.metrics),
        )
    n_items = _count_items(gate, suite, where)
    alpha = gate.alpha / resolved.policy.looks.planned
    if n_items < gate.min_items:
        raise ConfigError(
            "policy.too-few-items",
            f"{where}: {gate.id} needs more items than the suite {gate.suite!r} draws",
            got=str(n_items),
            expected=f"at least {gate.min_items}",
            fix="draw more items, or lower min_items",
        )
    if _best_case(gate, n_items, alpha) < GOOD_POWER:
        raise ConfigError(
            "policy.cannot-pass",
            f"{where}: {gate.id} cannot pass on {n_items} items: not even {_BEST_CASE[gate.claim]} would",
            fix="draw more items, widen the margin, raise alpha, or plan fewer looks",
        )
    figure, passes_if, is_narrow = _weakest_condition(gate, n_items, alpha)
    return GateReach(gate.id, line, n_items, passes_if, figure, is_narrow)


def _count_items(gate: EvalGate, suite: Suite, where: str) -> int:
    clusters = [item.cluster for item in draw_items(suite, bytes(SEED_BYTES))]
    if gate.clusters is None:
        return len(clusters)
    absent = [name for name in gate.clusters if name not in clusters]
    if absent:
        raise ConfigError(
            "policy.unknown-cluster",
            f"{where}: the suite {gate.suite!r} draws no items in a cluster that {gate.id} names",
            got=", ".join(absent),
            expected=", ".join(sorted(set(clusters))),
        )
    return sum(cluster in gate.clusters for cluster in clusters)


def _best_case(gate: EvalGate, n: int, alpha: float) -> float:
    """Probability that the candidate of ``_BEST_CASE`` passes."""
    if gate.level is not None:
        return at_least_power(n, gate.level if gate.claim == "at_least" else 1.0 - gate.level, 1.0, alpha)
    margin = (gate.margin or 0.0) / (gate.scale or 1.0)
    if gate.claim == "non_inferior_within":
        return betting_power(n, margin, 0.0, alpha)
    if margin == 0.0 and gate.scale is None:
        return mcnemar_power(n, 1.0, alpha, mean_difference=1.0)
    return betting_power(n, -margin, 1.0, alpha, mean_difference=1.0)


def _weakest_condition(gate: EvalGate, n: int, alpha: float) -> tuple[float | None, str, bool]:
    """(figure, in words, whether it asks more than a good candidate usually has)."""
    margin = gate.margin or 0.0
    if gate.level is not None:
        needed = gate.level if gate.claim == "at_least" else 1.0 - gate.level
        rate = _smallest(lambda r: at_least_power(n, needed, r, alpha), needed, 1.0)
        is_narrow = rate > (1.0 + needed) / 2.0
        if gate.claim == "at_least":
            return rate, f"the true rate is at least {rate:.3f}", is_narrow
        return 1.0 - rate, f"the true rate is at most {1.0 - rate:.3f}", is_narrow
    if gate.scale is not None:
        return None, "it depends on how much single items differ", False
    if gate.claim == "non_inferior_within":
        kept = _smallest(lambda share: betting_power(n, margin, 1.0 - share, alpha), 0.0, 1.0)
        changed = 1.0 - kept
        words = f"at most {changed:.1%} of the items change, as many for the better as for the worse"
        return changed, words, changed < LEAST_TOLERATED_CHANGE

    def gain_power(gain: float) -> float:
        discordance = min(1.0, gain + _CHANGE_BESIDE_A_GAIN)
        if margin == 0.0:
            return mcnemar_power(n, discordance, alpha, mean_difference=gain)
        return betting_power(n, -margin, discordance, alpha, mean_difference=gain)

    gain = _smallest(gain_power, margin, 1.0)
    return gain, f"the true gain is at least {gain:.3f}", gain > margin + LARGEST_USUAL_GAIN


def _smallest(power: Callable[[float], float], low: float, high: float) -> float:
    """The smallest value in [low, high] with good power, to 1/4096 of the range; power rises with it."""
    for _ in range(_STEPS):
        middle = (low + high) / 2.0
        if power(middle) >= GOOD_POWER:
            high = middle
        else:
            low = middle
    return high
