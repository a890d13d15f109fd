"""Checks of a policy against its suites: can each gate pass at all, and how likely when nothing got worse?

A gate that cannot pass teaches people to ignore it. Power is exact, at the last planned look, for
the number of items that the suite draws (:mod:`guards.power` says how items are modelled).

Not covered: whether the gates are strict enough; gates that read no scores; metrics without bounds,
for which only the best case is computed.
"""

from __future__ import annotations

from dataclasses import dataclass

from guards.errors import ConfigError
from guards.policy import EvalGate, ResolvedPolicy
from guards.power import at_least_power, betting_power, mcnemar_power
from loop.suites import SEED_BYTES, Suite, draw_items, load_suite

GOOD_POWER = 0.8
USUAL_DISCORDANCE = 0.06
"""Share of items whose outcome a harmless fine-tune changes, as policies of ours assume it."""
USUAL_GAIN = 0.1


@dataclass(frozen=True)
class GatePower:
    """How likely an eval gate passes under ``assuming``; None where that cannot be computed."""

    gate_id: str
    line: int
    n_items: int
    power: float | None
    assuming: str

    @property
    def is_weak(self) -> bool:
        """True if a candidate that deserves to pass would often be held."""
        return self.power is not None and self.power < GOOD_POWER


def check_policy(resolved: ResolvedPolicy) -> tuple[GatePower, ...]:
    """The power of every eval gate, in the policy's order.

    Raises:
        ConfigError: ``policy.unknown-metric``, ``policy.unknown-cluster``, ``policy.too-few-items``
            or ``policy.cannot-pass``, at the gate's line; what :func:`loop.suites.load_suite` refuses.
        SuiteError: a suite from which nothing can be drawn.
    """
    folder = resolved.source.parent
    suites = {name: load_suite(folder / path) for name, path in resolved.policy.suites.items()}
    eval_gates = [gate for gate in resolved.policy.gates if isinstance(gate, EvalGate)]
    return tuple(_gate_power(gate, suites[gate.suite], resolved) for gate in eval_gates)


def joint_power_at_least(powers: tuple[GatePower, ...]) -> float:
    """A lower bound on the probability that all these gates pass, however they depend on each other."""
    return max(0.0, 1.0 - sum(1.0 - gate.power for gate in powers if gate.power is not None))


def _gate_power(gate: EvalGate, suite: Suite, resolved: ResolvedPolicy) -> GatePower:
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
            f"{where}: {gate.id} cannot pass: not even a candidate without a flaw would, on {n_items} items",
            fix="draw more items, widen the margin, raise alpha, or plan fewer looks",
        )
    power, assuming = _usual_case(gate, n_items, alpha)
    return GatePower(gate_id=gate.id, line=line, n_items=n_items, power=power, assuming=assuming)


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
    """Probability that a candidate without a flaw passes."""
    if gate.level is not None:
        return at_least_power(n, gate.level if gate.claim == "at_least" else 1.0 - gate.level, 1.0, alpha)
    margin = (gate.margin or 0.0) / (gate.scale or 1.0)
    if gate.claim == "non_inferior_within":
        return betting_power(n, margin, 0.0, alpha)
    if margin == 0.0 and gate.scale is None:
        return mcnemar_power(n, 1.0, alpha, mean_difference=1.0)
    return betting_power(n, -margin, 1.0, alpha, mean_difference=1.0)


def _usual_case(gate: EvalGate, n: int, alpha: float) -> tuple[float | None, str]:
    """Probability that a candidate passes which is as good as one may hope for, and what that means."""
    if gate.level is not None:
        needed = gate.level if gate.claim == "at_least" else 1.0 - gate.level
        halfway = (1.0 + needed) / 2.0
        rate = halfway if gate.claim == "at_least" else 1.0 - halfway
        return at_least_power(n, needed, halfway, alpha), f"the true rate is {rate:.3g}"
    if gate.scale is not None:
        return None, "it depends on how much single items differ"
    margin = gate.margin or 0.0
    if gate.claim == "non_inferior_within":
        changed = f"nothing got worse, and {USUAL_DISCORDANCE:.0%} of the items changed either way"
        return betting_power(n, margin, USUAL_DISCORDANCE, alpha), changed
    gain = min(1.0, margin + USUAL_GAIN)
    discordance = min(1.0, gain + USUAL_GAIN)
    assuming = f"the true gain is {gain:.3g}, and {discordance:.0%} of the items changed"
    if margin == 0.0:
        return mcnemar_power(n, discordance, alpha, mean_difference=gain), assuming
    return betting_power(n, -margin, discordance, alpha, mean_difference=gain), assuming
