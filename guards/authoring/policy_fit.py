"""How the eval gates of a policy fit the suites that they read: can each pass, and all of them together?

For every gate its test is worked out at the first planned look, and at the last one, which is also the
last declared read where the items are a holdout. How likely it is to pass is exact
(:mod:`guards.authoring.gate_power`), for a *good candidate*, which is the same for every policy:

======================  =================================================================
claim                   a good candidate
======================  =================================================================
non_inferior_within     2% of its answers changed, half of them for the better
superior_by m           better by m and 15 points; besides, 10% of its answers changed
at_least L, at_most L   its true rate lies halfway between L and the best
with a ``scale``        as above, and each item differs by 0.1 of the scale
======================  =================================================================

Joint power is computed from the powers of the gates: bounds that always hold, and the value for
independent gates. An any_of gate counts as its likeliest member, gates that test nothing as passed.

Not covered: what your candidates are like; whether the gates are strict enough; gates that read no
scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from guards.authoring.gate_power import JointPower, Unchanged, joint_power, power_of_gate, size_of_gate
from guards.authoring.suite_facts import SuiteFacts, source_of
from guards.errors import EvidenceError
from guards.gates.alpha import LEAST_ALPHA, LookPlan, alpha_of_look, plan_of, rounded_down
from guards.gates.holdouts import alpha_when_all_is_used
from guards.gates.judged_scores import judge_bounds
from guards.policy import AllOfGate, AnyOfGate, EvalGate, Gate, Judge, OnlyIfGate, Policy
from guards.yaml_positions import Finding, PositionMap, YamlPath

GOOD_POWER = 0.8
LEAST_JOINT_POWER = 0.5
# A harmless fine-tune changes this share of the answers at least; a gate that holds it for that is too narrow.
LEAST_TOLERATED_CHANGE = 0.02
# What one cycle gains at best; a gate that asks for more than its margin and this will not open.
LARGEST_USUAL_GAIN = 0.15
# Items that change although the candidate did not get better, while others gain.
CHANGE_BESIDE_A_GAIN = 0.1
SPREAD_OF_SCALE = 0.1

Severity = Literal["error", "warning"]
_MAX_NAMED = 5
_BEST_CASE = {
    "superior_by": "a candidate that gets better on every item",
    "non_inferior_within": "a candidate whose scores are all as before",
    "at_least": "a perfect candidate",
    "at_most": "a perfect candidate",
}
_NARROW = "draw more items, widen the margin, raise alpha, or plan fewer looks or reads"


@dataclass(frozen=True)
class GateFit:
    """An eval gate that can be tested: where it stands, its items (or sources), and alpha at both looks.

    ``power_first`` and ``power_last`` are for the good candidate.
    """

    gate: EvalGate
    at: YamlPath
    n_items: int
    alpha_first: float
    alpha_last: float
    power_first: float
    power_last: float

    @property
    def is_narrow(self) -> bool:
        """True if the last look would often hold a good candidate."""
        return self.power_last < GOOD_POWER


@dataclass(frozen=True)
class JointPowerAtLook:
    """How often all gates together pass a good candidate at one look, and the gates that do so least often."""

    look: int
    power: JointPower
    weakest: tuple[tuple[str, float], ...]


class PolicyFit:
    """The fits of all eval gates that can pass, by gate id, and what was found on the way."""

    def __init__(self, policy: Policy, positions: PositionMap, suites: Mapping[str, SuiteFacts]) -> None:
        self.findings: list[tuple[Severity, Finding]] = []
        self.fits: dict[str, GateFit] = {}
        self._policy = policy
        self._positions = positions
        self._plan: LookPlan = plan_of(policy)
        self._n_tests = 0
        self._power: dict[tuple[object, ...], float] = {}  # gates that differ in no figure are enumerated once
        for gate, at in policy.gates_with_paths():
            if isinstance(gate, EvalGate):
                self._n_tests += 1
                if gate.suite in suites and (gate.judge is None or gate.judge in policy.judges):
                    self._fit(gate, at, suites[gate.suite])

    def joint_power(self) -> tuple[JointPowerAtLook, ...]:
        """At the first look and at the last; empty where some gate cannot be tested."""
        if not self.fits or len(self.fits) < self._n_tests:
            return ()
        looks = {
            1: {name: fit.power_first for name, fit in self.fits.items()},
            self._policy.looks.planned: {name: fit.power_last for name, fit in self.fits.items()},
        }
        return tuple(
            JointPowerAtLook(
                look,
                joint_power(one for gate in self._policy.gates for one in _powers_in(gate, power)),
                tuple(sorted(power.items(), key=lambda pair: pair[1])[:_MAX_NAMED]),
            )
            for look, power in looks.items()
        )

    def joint_power_findings(self) -> Iterator[tuple[Severity, Finding]]:
        """``policy.joint-power`` where even good candidates would mostly be held."""
        planned = self._policy.looks.planned
        for joint in self.joint_power():
            # This schedule leaves the first look next to nothing, and is chosen for that.
            is_meant = self._policy.looks.spending == "obrien-fleming" and joint.look < planned
            if joint.power.independent < LEAST_JOINT_POWER and not is_meant:
                weakest = ", ".join(f"{name} {power:.2f}" for name, power in joint.weakest)
                message = (
                    f"at look {joint.look} of {planned}, all gates together pass a good candidate with probability "
                    f"{joint.power.independent:.2f} if they are independent, and between "
                    f"{joint.power.at_least:.2f} and {joint.power.at_most:.2f} however they depend on one another; "
                    f"the least likely: {weakest}"
                )
                yield "warning", Finding("policy.joint-power", self._positions.of_key("gates"), message, fix=_NARROW)

    def _fit(self, gate: EvalGate, at: YamlPath, facts: SuiteFacts) -> None:
        n = self._n_values(gate, at, facts) if self._can_read(gate, at, facts) else None
        if n is None:
            return
        if n < gate.min_items:
            self._error(
                "policy.too-few-items",
                (*at, "min_items"),
                f"{gate.id} needs more {'sources' if gate.group_by else 'items'} than the suite {gate.suite!r} draws",
                got=str(n),
                expected=f"at least {gate.min_items}",
                fix="draw more items, or lower min_items",
            )
            return
        first = rounded_down(alpha_of_look(gate.id, self._plan, ()))
        last = rounded_down(alpha_when_all_is_used(self._policy, gate, self._plan))
        judge = None if gate.judge is None else self._policy.judges[gate.judge]
        if min(first, last) < LEAST_ALPHA:
            self._error("policy.cannot-pass", at, f"{gate.id} cannot pass: almost no alpha is left to it", fix=_NARROW)
            return
        if judge is not None and not self._is_strong(judge, gate, at, min(first, last)):
            return
        good = [self._power_of(gate, n, alpha, _good_candidate(gate), judge) for alpha in (first, last)]
        fit = GateFit(gate, at, n, first, last, *good)
        if self._can_pass(fit, judge):
            self.fits[gate.id] = fit

    def _can_read(self, gate: EvalGate, at: YamlPath, facts: SuiteFacts) -> bool:
        """True if the suite has what the gate reads."""
        if gate.metric not in facts.metrics:
            self._error(
                "policy.unknown-metric",
                (*at, "metric"),
                f"the suite {gate.suite!r} has no metric {gate.metric!r}, so {gate.id} would stay inconclusive",
                got=gate.metric,
                expected=", ".join(facts.metrics),
            )
            return False
        if gate.metric in facts.unbounded and gate.scale is None:
            self._error(
                "policy.unbounded-metric",
                (*at, "metric"),
                f"{gate.metric!r} may lie outside [0, 1], so {gate.id} would stay inconclusive",
                got="no 'scale'",
                fix="declare a 'scale': how much one item's difference may count at most"
                if gate.is_paired
                else "compare with a checkpoint, and declare a 'scale'",
            )
            return False
        if gate.judge is not None and gate.metric not in facts.binary:
            self._error(
                "policy.judge-metric",
                (*at, "judge"),
                f"a judge says yes or no, and {gate.metric!r} of the suite {gate.suite!r} is neither",
            )
            return False
        return True

    def _n_values(self, gate: EvalGate, at: YamlPath, facts: SuiteFacts) -> int | None:
        """How many items, or sources, the gate's test reads."""
        clusters = {item.cluster for item in facts.items}
        absent = [name for name in gate.clusters or () if name not in clusters]
        if absent:
            self._error(
                "policy.unknown-cluster",
                (*at, "clusters"),
                f"the suite {gate.suite!r} draws no items in a cluster that {gate.id} names",
                got=", ".join(absent),
                expected=", ".join(sorted(clusters)),
            )
            return None
        items = [item for item in facts.items if gate.clusters is None or item.cluster in gate.clusters]
        if gate.group_by is None:
            return len(items)
        sources = {source_of(item, gate.group_by) for item in items}
        if None in sources:
            self._error(
                "policy.unknown-tag",
                (*at, "group_by"),
                f"not every item of the suite {gate.suite!r} has what {gate.id} groups them by",
                got=gate.group_by,
                expected=", ".join(["cluster", *sorted({f"tag:{tag}" for item in items for tag in item.tags})]),
            )
            return None
        return len(sources)

    def _is_strong(self, judge: Judge, gate: EvalGate, at: YamlPath, alpha: float) -> bool:
        """True if the judge is known well enough for the gate to say anything."""
        try:
            judge_bounds(judge, alpha)
        except EvidenceError as error:
            message = f"{gate.id} would stay inconclusive: {error.message}"
            path = (*at, "judge")
            self._error("policy.judge-too-weak", path, message, got=error.got, expected=error.expected, fix=error.fix)
            return False
        return True

    def _can_pass(self, fit: GateFit, judge: Judge | None) -> bool:
        """False, and an error, for a gate that not even the best candidate passes; a warning for a narrow one."""
        gate, planned, n = fit.gate, self._policy.looks.planned, fit.n_items
        holdout = self._policy.holdouts.get(gate.suite)
        when = f"at look {planned}" + (f" and read {holdout.reads} of its items" if holdout is not None else "")
        when = f"{when} (alpha {fit.alpha_last:.2g})"
        if self._power_of(gate, n, fit.alpha_last, _best_candidate(gate), judge) < GOOD_POWER:
            message = f"{gate.id} cannot pass on {n} items {when}: not even {_BEST_CASE[gate.claim]} would"
            self._error("policy.cannot-pass", fit.at, message, fix=_NARROW)
            return False
        if fit.is_narrow:
            message = (
                f"{gate.id} would often hold a good candidate: {_in_words(gate)} passes {when} with probability "
                f"{fit.power_last:.2f}"
            )
            place = self._positions.at(*fit.at)
            self.findings.append(("warning", Finding("policy.seldom-passes", place, message, fix=_NARROW)))
        for alpha in {fit.alpha_first, fit.alpha_last}:
            size = self._size_of(gate, n, alpha, judge)
            if size > alpha * (1.0 + 1e-9):
                self._error(
                    "policy.size-above-alpha",
                    fit.at,
                    f"{gate.id} would pass what lies at its margin more often than its alpha allows, on {n} items",
                    got=f"{size:.3g}",
                    expected=f"at most {alpha:.3g}",
                    fix="change the margin or the number of items, and report it: no test here should do that",
                )
        return True

    def _power_of(self, gate: EvalGate, n: int, alpha: float, candidate: Unchanged, judge: Judge | None) -> float:
        key = (*_figures(gate), n, alpha, candidate)
        if key not in self._power:
            self._power[key] = power_of_gate(gate, n, alpha, candidate, judge=judge)
        return self._power[key]

    def _size_of(self, gate: EvalGate, n: int, alpha: float, judge: Judge | None) -> float:
        key = (*_figures(gate), n, alpha)
        if key not in self._power:
            self._power[key] = size_of_gate(gate, n, alpha, judge=judge)
        return self._power[key]

    def _error(
        self, rule: str, path: YamlPath, message: str, *, got: str = "", expected: str = "", fix: str = ""
    ) -> None:
        found = Finding(rule, self._positions.at(*path), message, got=got, expected=expected, fix=fix, path=path)
        self.findings.append(("error", found))


def _figures(gate: EvalGate) -> tuple[object, ...]:
    """All of a gate that its power depends on, besides the number of items and alpha."""
    return gate.claim, gate.margin, gate.level, gate.scale, gate.group_by is None, gate.judge


def _good_candidate(gate: EvalGate) -> Unchanged:
    unit = gate.scale or 1.0
    level = 0.5 if gate.level is None else gate.level
    is_gain = gate.claim == "superior_by"
    return Unchanged(
        discordance=CHANGE_BESIDE_A_GAIN if is_gain else LEAST_TOLERATED_CHANGE,
        gain=min(unit, (gate.margin or 0.0) + LARGEST_USUAL_GAIN * unit) if is_gain else 0.0,
        rate=level / 2.0 if gate.claim == "at_most" else (1.0 + level) / 2.0,
        spread=SPREAD_OF_SCALE * unit,
    )


def _best_candidate(gate: EvalGate) -> Unchanged:
    return Unchanged(discordance=0.0, gain=gate.scale or 1.0, rate=0.0 if gate.claim == "at_most" else 1.0)


def _in_words(gate: EvalGate) -> str:
    if gate.level is not None:
        best = 0 if gate.claim == "at_most" else 1
        return f"one whose true rate lies halfway between {gate.level:g} and {best}"
    spread = f", each item {SPREAD_OF_SCALE * gate.scale:g} off," if gate.scale is not None else ""
    if gate.claim == "superior_by":
        gain = _good_candidate(gate).gain
        return f"one that is better by {gain:g}{spread}"
    if gate.scale is not None:
        return f"one that is as good{spread}"
    return f"one with {LEAST_TOLERATED_CHANGE:.0%} of its answers changed, half of them for the better,"


def _powers_in(gate: Gate, power: Mapping[str, float]) -> Iterator[float]:
    """The powers of all that has to pass for ``gate`` to pass."""
    match gate:
        case EvalGate():
            yield power[gate.id]
        case AllOfGate():
            for member in gate.gates:
                yield from _powers_in(member, power)
        case AnyOfGate():
            yield max(math.prod(_powers_in(member, power)) for member in gate.gates)
        case OnlyIfGate():
            yield from _powers_in(gate.then, power)
        case _:
            pass
