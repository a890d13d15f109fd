"""Gates made of gates: ``all_of``, ``any_of`` and ``only_if``.

===========  ==========================================  ================================  ============
gate         passes                                      fails                             else
===========  ==========================================  ================================  ============
``all_of``   every member passes                         one member fails                  inconclusive
``any_of``   one member passes                           every member fails                inconclusive
``only_if``  its condition fails, so that it does not    ``then`` fails, unless the        inconclusive
             apply, or ``then`` passes                   condition fails
===========  ==========================================  ================================  ============

Members of an ``any_of`` are tested at their alpha divided by their number, on every level
(:func:`guards.gates.alpha.alpha_parts`): a false pass needs one of them to pass falsely, so its chance
is at most the sum of their sizes, which is at most the largest alpha among them. Neither ``all_of`` nor
``only_if`` needs a correction: a false pass of the whole is a false pass of one given member. A condition
is no test, and one that is inconclusive counts as met.

One verdict comes out, which holds those of its members. The log takes it only where it follows from
them (:mod:`guards.gates.contradictions`).

Not covered: what members do not ask. A waiver is about the whole gate, never about a member.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from guards.gates.inputs import GateInputs
from guards.gates.verdict import Outcome, Verdict
from guards.policy import AllOfGate, AnyOfGate, CompositeGate, Gate, OnlyIfGate


def evaluate_composite_gate(
    gate: CompositeGate, inputs: GateInputs, evaluate: Callable[[Gate, GateInputs], Verdict]
) -> Verdict:
    """The verdict that follows from those of the members, which ``evaluate`` gives."""
    members = tuple(evaluate(member, inputs) for member in gate.members)
    outcome, reason = what_follows(gate, members)
    return Verdict(
        gate_id=gate.id,
        kind=gate.kind,
        outcome=outcome,
        reason=reason,
        policy_line=inputs.policy.gate_lines.get(gate.id, 0),
        members=members,
    )


def what_follows(gate: CompositeGate, members: Sequence[Verdict]) -> tuple[Outcome, str]:
    """(outcome, reason) of a composite whose members said this; one verdict for each, in the policy's order."""
    match gate:
        case AllOfGate():
            return _all_of(members)
        case AnyOfGate():
            return _any_of(members)
        case OnlyIfGate():
            condition, then = members
            return _only_if(condition, then)


def reads_of(verdict: Verdict) -> tuple[tuple[str, str, str], ...]:
    """(suite, metric, claim) of what a verdict rests on, and its members do; a dash where there is none."""
    read = (one.details for one in (verdict, *verdict.all_members()) if "suite" in one.details)
    return tuple((details["suite"], details.get("metric") or "-", details.get("claim") or "-") for details in read)


def _all_of(members: Sequence[Verdict]) -> tuple[Outcome, str]:
    failed = [verdict for verdict in members if verdict.outcome == "fail"]
    # Whatever is not a pass keeps the whole from passing, also an outcome that nobody thought of.
    open_ = [verdict for verdict in members if verdict.outcome != "pass"]
    if failed:
        return "fail", f"all members must pass, and some fail: {_ids(failed)}"
    if open_:
        return "inconclusive", f"all members must pass, and some are open: {_ids(open_)}"
    return "pass", f"all {len(members)} members pass"


def _any_of(members: Sequence[Verdict]) -> tuple[Outcome, str]:
    passed = [verdict for verdict in members if verdict.outcome == "pass"]
    if passed:
        return "pass", f"one member is enough, and these pass: {_ids(passed)}"
    if all(verdict.outcome == "fail" for verdict in members):
        return "fail", f"all {len(members)} members fail"
    return "inconclusive", f"none of its {len(members)} members passes, and not all fail"


def _only_if(condition: Verdict, then: Verdict) -> tuple[Outcome, str]:
    if condition.outcome == "fail":
        return "pass", f"it does not apply: {condition.gate_id} fails"
    applies = "it applies" if condition.outcome == "pass" else f"it counts as applying: {condition.gate_id} is open"
    outcome: Outcome = then.outcome if then.outcome in ("pass", "fail") else "inconclusive"
    word = {"pass": "passes", "fail": "fails", "inconclusive": "is inconclusive"}[outcome]
    return outcome, f"{applies}, and {then.gate_id} {word}"


def _ids(verdicts: Sequence[Verdict]) -> str:
    return ", ".join(verdict.gate_id for verdict in verdicts)
