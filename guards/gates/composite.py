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

One verdict comes out. ``details`` has, by ``member:<id>``, what each member said (members of members
too), by ``member_rule:<id>`` the rule it rests on, if it names one, and by ``member_reads:<id>`` the
suite that it reads, with the metric and the claim of a test.

Not covered: what members do not ask. A waiver is about the whole gate, never about a member.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from guards.gates.inputs import GateInputs
from guards.gates.verdict import Outcome, Verdict, figures_of
from guards.policy import AllOfGate, AnyOfGate, CompositeGate, Gate, OnlyIfGate

MEMBER = "member:"
MEMBER_RULE = "member_rule:"
MEMBER_READS = "member_reads:"
_READS = ("suite", "metric", "claim")


def evaluate_composite_gate(
    gate: CompositeGate, inputs: GateInputs, evaluate: Callable[[Gate, GateInputs], Verdict]
) -> Verdict:
    """The verdict that follows from those of the members, which ``evaluate`` gives."""
    match gate:
        case AllOfGate():
            return _all_of(gate, inputs, [evaluate(member, inputs) for member in gate.gates])
        case AnyOfGate():
            return _any_of(gate, inputs, [evaluate(member, inputs) for member in gate.gates])
        case OnlyIfGate():
            condition, then = (evaluate(member, inputs) for member in gate.members)
            return _only_if(gate, inputs, condition, then)


def said_by_members(verdict: Verdict) -> tuple[tuple[str, str, str], ...]:
    """(id, outcome, reason with its figures) of every member of a composite, and of their members; else nothing."""
    said = ((key.removeprefix(MEMBER), text) for key, text in verdict.details.items() if key.startswith(MEMBER))
    return tuple((gate_id, *_outcome_and_reason(text)) for gate_id, text in said)


def _outcome_and_reason(text: str) -> tuple[str, str]:
    outcome, _, reason = text.partition(": ")
    return outcome, reason


def reads_of(verdict: Verdict) -> tuple[tuple[str, str, str], ...]:
    """(suite, metric, claim) of what a verdict rests on, or what its members do; a dash where there is none."""
    texts = [text for key, text in verdict.details.items() if key.startswith(MEMBER_READS)]
    found = [tuple(text.split(" ")) for text in texts]
    if "suite" in verdict.details:
        found.append(_reads(verdict))
    return tuple((parts[0], parts[1], parts[2]) for parts in found if len(parts) == len(_READS))


def _reads(verdict: Verdict) -> tuple[str, ...]:
    return tuple(verdict.details.get(key) or "-" for key in _READS)


def _all_of(gate: AllOfGate, inputs: GateInputs, members: Sequence[Verdict]) -> Verdict:
    failed = [verdict for verdict in members if verdict.outcome == "fail"]
    # Whatever is not a pass keeps the whole from passing, also an outcome that nobody thought of.
    open_ = [verdict for verdict in members if verdict.outcome != "pass"]
    if failed:
        return _verdict(gate, inputs, members, "fail", f"all members must pass, and some fail: {_ids(failed)}")
    if open_:
        return _verdict(
            gate, inputs, members, "inconclusive", f"all members must pass, and some are open: {_ids(open_)}"
        )
    return _verdict(gate, inputs, members, "pass", f"all {len(members)} members pass")


def _any_of(gate: AnyOfGate, inputs: GateInputs, members: Sequence[Verdict]) -> Verdict:
    passed = [verdict for verdict in members if verdict.outcome == "pass"]
    if passed:
        return _verdict(gate, inputs, members, "pass", f"one member is enough, and these pass: {_ids(passed)}")
    if all(verdict.outcome == "fail" for verdict in members):
        return _verdict(gate, inputs, members, "fail", f"all {len(members)} members fail")
    return _verdict(
        gate, inputs, members, "inconclusive", f"none of its {len(members)} members passes, and not all fail"
    )


def _only_if(gate: OnlyIfGate, inputs: GateInputs, condition: Verdict, then: Verdict) -> Verdict:
    members = (condition, then)
    if condition.outcome == "fail":
        return _verdict(gate, inputs, members, "pass", f"it does not apply: {condition.gate_id} fails")
    applies = "it applies" if condition.outcome == "pass" else f"it counts as applying: {condition.gate_id} is open"
    outcome: Outcome = then.outcome if then.outcome in ("pass", "fail") else "inconclusive"
    word = {"pass": "passes", "fail": "fails", "inconclusive": "is inconclusive"}[outcome]
    return _verdict(gate, inputs, members, outcome, f"{applies}, and {then.gate_id} {word}")


def _verdict(
    gate: CompositeGate, inputs: GateInputs, members: Sequence[Verdict], outcome: Outcome, reason: str
) -> Verdict:
    details: dict[str, str] = {}
    for member in members:
        details[f"{MEMBER}{member.gate_id}"] = f"{member.outcome}: {member.reason}{figures_of(member)}"
        if "rule" in member.details:
            details[f"{MEMBER_RULE}{member.gate_id}"] = member.details["rule"]
        if "suite" in member.details:
            details[f"{MEMBER_READS}{member.gate_id}"] = " ".join(_reads(member))
        # What members of members said.
        details |= {key: text for key, text in member.details.items() if key.startswith("member")}
    return Verdict(
        gate_id=gate.id,
        kind=gate.kind,
        outcome=outcome,
        reason=reason,
        policy_line=inputs.policy.gate_lines.get(gate.id, 0),
        details=details,
    )


def _ids(verdicts: Sequence[Verdict]) -> str:
    return ", ".join(verdict.gate_id for verdict in verdicts)
