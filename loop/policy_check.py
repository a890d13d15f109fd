"""What it takes to pass each gate of a policy, in the words of ``stairlock policy check``.

A gate that cannot pass teaches people to ignore it, and so does one that holds every second good
candidate. For each eval gate the weakest condition is computed under which it passes four times
out of five, exactly, at the number of items that its suite draws and at the alpha of the last
planned look, which is the last declared read where the items are a holdout.

What is wrong with a policy is for :mod:`guards.authoring.policy_lint` to find; this only says what is so.

Not covered: whether the gates are strict enough; gates that read no scores; metrics without
bounds, where it depends on how much single items differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from guards.authoring.gate_power import Unchanged, power_of_gate
from guards.authoring.policy_fit import CHANGE_BESIDE_A_GAIN, GOOD_POWER, GateFit
from guards.authoring.policy_lint import lint_policy
from guards.errors import ConfigError
from guards.policy import Policy, ResolvedPolicy
from loop.suite_facts import facts_of_suite

_STEPS = 12


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
        ConfigError: the first error that :func:`guards.authoring.policy_lint.lint_policy` finds, under its rule.
    """
    report = lint_policy(resolved.source, facts_of_suite)
    for problem in report.errors:
        where = f"{problem.file}:{problem.line}:{problem.column}"
        raise ConfigError(problem.rule, f"{where}: {problem.message}", fix=problem.fix)
    return tuple(_reach(fit, resolved) for fit in report.fits)


def _reach(fit: GateFit, resolved: ResolvedPolicy) -> GateReach:
    figure, passes_if = _weakest_condition(fit, resolved.policy)
    return GateReach(fit.gate.id, resolved.gate_lines[fit.gate.id], fit.n_items, passes_if, figure, fit.is_narrow)


def _weakest_condition(fit: GateFit, policy: Policy) -> tuple[float | None, str]:
    """(figure, in words)."""
    gate = fit.gate
    judge = None if gate.judge is None else policy.judges[gate.judge]

    def power(candidate: Unchanged) -> float:
        return power_of_gate(gate, fit.n_items, fit.alpha_last, candidate, judge=judge)

    if gate.scale is not None:
        return None, "it depends on how much single items differ"
    match gate.claim:
        case "at_least":
            rate = _smallest(lambda r: power(Unchanged(rate=r)), gate.level or 0.0, 1.0)
            return rate, f"the true rate is at least {rate:.3f}"
        case "at_most":
            rate = 1.0 - _smallest(lambda r: power(Unchanged(rate=1.0 - r)), 1.0 - (gate.level or 0.0), 1.0)
            return rate, f"the true rate is at most {rate:.3f}"
        case "non_inferior_within":
            changed = 1.0 - _smallest(lambda kept: power(Unchanged(discordance=1.0 - kept)), 0.0, 1.0)
            return changed, f"at most {changed:.1%} of the items change, as many for the better as for the worse"
        case "superior_by":
            least = gate.margin or 0.0
            gain = _smallest(lambda g: power(Unchanged(discordance=CHANGE_BESIDE_A_GAIN, gain=g)), least, 1.0)
            return gain, f"the true gain is at least {gain:.3f}"


def _smallest(power: Callable[[float], float], low: float, high: float) -> float:
    """The smallest value in [low, high] with good power, to 1/4096 of the range; power rises with it."""
    for _ in range(_STEPS):
        middle = (low + high) / 2.0
        if power(middle) >= GOOD_POWER:
            high = middle
        else:
            low = middle
    return high
