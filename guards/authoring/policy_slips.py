"""Slips: what a policy may say and hardly means, in gates that are no tests and in how gates are put together.

* A collapse gate that can never pass: its suite draws too few items, or has no outputs at all.
* A holdout that is spent before the last planned look.
* An any_of gate beside whose tests one member passes without any: what the tests say does not matter then.

Not covered: tests themselves (:mod:`guards.authoring.policy_fit`), and gates that say the same twice
(:mod:`guards.authoring.policy_relations`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from guards.authoring.policy_fit import Severity
from guards.authoring.suite_facts import SuiteFacts
from guards.policy import AllOfGate, AnyOfGate, CollapseGate, EvalGate, Gate, OnlyIfGate, Policy
from guards.yaml_positions import Finding, PositionMap, YamlPath


def slips(
    policy: Policy, positions: PositionMap, suites: Mapping[str, SuiteFacts]
) -> Iterator[tuple[Severity, Finding]]:
    """Every slip in ``policy``; suites that are not in ``suites`` could not be read."""
    for gate, at in policy.gates_with_paths():
        if isinstance(gate, CollapseGate) and gate.suite in suites:
            yield from _collapse(gate, at, positions, suites[gate.suite])
        elif isinstance(gate, AnyOfGate):
            yield from _any_of(gate, at, positions)
    yield from _holdouts(policy, positions)


def _collapse(
    gate: CollapseGate, at: YamlPath, positions: PositionMap, facts: SuiteFacts
) -> Iterator[tuple[Severity, Finding]]:
    if not facts.has_outputs:
        yield (
            "error",
            Finding(
                "policy.no-outputs",
                positions.at(*at, "suite"),
                f"the suite {gate.suite!r} is scored by likelihoods and has no outputs, so {gate.id} would stay "
                "inconclusive",
                fix="name a suite whose outputs are scored",
            ),
        )
    elif len(facts.items) < gate.min_items:
        yield (
            "error",
            Finding(
                "policy.too-few-items",
                positions.at(*at, "min_items"),
                f"{gate.id} needs more items than the suite {gate.suite!r} draws",
                got=str(len(facts.items)),
                expected=f"at least {gate.min_items}",
                fix="draw more items, or lower min_items",
            ),
        )


def _any_of(gate: AnyOfGate, at: YamlPath, positions: PositionMap) -> Iterator[tuple[Severity, Finding]]:
    untested = [index for index, member in enumerate(gate.gates) if not _needs_test(member)]
    if len(untested) == len(gate.gates):
        return
    for index in untested:
        member = gate.gates[index]
        message = f"{member.id} alone passes {gate.id}, whatever the tests beside it say, and is no test itself"
        fix = "make it a gate of its own, or both together a member (all_of)"
        yield "warning", Finding("policy.passes-untested", positions.at(*at, "gates", index), message, fix=fix)


def _needs_test(gate: Gate) -> bool:
    """True if nothing passes the gate without passing a test; where an only_if applies."""
    match gate:
        case AllOfGate():
            return any(_needs_test(member) for member in gate.gates)
        case AnyOfGate():
            return all(_needs_test(member) for member in gate.gates)
        case OnlyIfGate():
            return _needs_test(gate.then)
        case _:
            return isinstance(gate, EvalGate)


def _holdouts(policy: Policy, positions: PositionMap) -> Iterator[tuple[Severity, Finding]]:
    planned = policy.looks.planned
    # What is compared with a root has one, and the look that made it read the same items.
    has_root = any(getattr(gate, "against", None) in ("root", "anchor") for gate in policy.leaf_gates())
    needed = planned + has_root
    for suite, holdout in policy.holdouts.items():
        if holdout.reads < needed:
            root = ", and the look that makes the root is a read too" if has_root else ""
            n_open = needed - holdout.reads
            message = (
                f"{planned} looks are planned{root}: at the last {n_open} of them the tests on {suite!r} would stay "
                "inconclusive"
            )
            yield (
                "warning",
                Finding(
                    "policy.holdout-short",
                    positions.at("holdouts", suite, "reads"),
                    message,
                    got=str(holdout.reads),
                    expected=f"at least {needed}",
                    fix="declare more reads (each halves alpha), plan fewer looks, or replace the items in time",
                ),
            )
