"""Verdicts that contradict themselves, or the policy by which they were given. The log takes none.

* A composite's verdict holds one verdict of each of its members, and is what follows from them.
* A test that passes has a bound that clears what the policy asks for. It has none only where its suite
  was stopped early (``looks.stop_early``), where a pass is certain before the bound is known.
* A drift gate's pass or fail has the p that the policy's levels ask for.

Not covered: whether the figures are those of the evidence (``stairlock reproduce`` repeats it); at which
alpha a test may pass (:mod:`guards.gates.look_alpha`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from guards.gates.composite import what_follows
from guards.gates.early_stop import stoppable_suites
from guards.gates.table_verdict import threshold
from guards.gates.verdict import Verdict
from guards.policy import CompositeGate, DriftGate, EvalGate, Gate, Policy

_ROUNDING = 1e-9
"""By so much, in units of the scale, a bound that clears the threshold exactly may seem not to."""


def contradictions(policy: Policy, verdicts: Iterable[Verdict]) -> Iterator[str]:
    """What is wrong with each verdict of a gate of ``policy``; nothing where all is well."""
    for verdict in verdicts:
        gate = policy.gate(verdict.gate_id)
        if gate is not None:
            yield from _contradictions(policy, gate, verdict)


def _contradictions(policy: Policy, gate: Gate, verdict: Verdict) -> Iterator[str]:
    if not isinstance(gate, CompositeGate):
        if verdict.members:
            yield f"{gate.id} has no members, and its verdict holds some"
        if isinstance(gate, EvalGate) and verdict.outcome == "pass":
            yield from _of_a_pass(policy, gate, verdict)
        if isinstance(gate, DriftGate):
            yield from _of_drift(gate, verdict)
        return
    asked, said = ([(member.id, member.kind) for member in gate.members], [_named(one) for one in verdict.members])
    if asked != said:
        shown = ", ".join(f"{gate_id} ({kind})" for gate_id, kind in said) or "none"
        yield f"{gate.id} needs a verdict of each of its members in the policy's order, and has {shown}"
        return
    for member, one in zip(gate.members, verdict.members, strict=True):
        yield from _contradictions(policy, member, one)
    outcome, reason = what_follows(gate, verdict.members)
    if verdict.outcome != outcome:
        yield f"{gate.id} says {verdict.outcome}, and {outcome} follows from its members: {reason}"


def _of_drift(gate: DriftGate, verdict: Verdict) -> Iterator[str]:
    p = verdict.observed
    if verdict.outcome == "pass" and not (p is not None and gate.review_at < p <= 1.0):
        yield f"{gate.id} passes with p {p!r}, and p must be above {gate.review_at:g}"
    if verdict.outcome == "fail" and not (p is not None and 0.0 < p <= gate.block_at):
        yield f"{gate.id} fails with p {p!r}, and it blocks at {gate.block_at:g} or below"


def _named(verdict: Verdict) -> tuple[str, str]:
    return verdict.gate_id, verdict.kind


def _of_a_pass(policy: Policy, gate: EvalGate, verdict: Verdict) -> Iterator[str]:
    if verdict.bound is None:
        if gate.suite not in stoppable_suites(policy):
            yield f"{gate.id} passes without a bound, and its suite is never stopped early"
        return
    least = threshold(gate)
    above = (least - verdict.bound) if gate.claim == "at_most" else (verdict.bound - least)
    if not above >= -_ROUNDING * (gate.scale or 1.0):
        yield f"{gate.id} passes with the bound {verdict.bound!r}, which does not clear {least:+g} ({gate.claim})"
