"""The drift gate: does the candidate differ from the root as harmless fine-tunes of the root do?

The candidate's records are made into one vector (:mod:`guards.drift.components`), and it and the bank's
verified members are scored, each against the others (:mod:`guards.drift.scores`). What follows, the first
that applies:

======================================================================================  ============
evidence or bank missing, of something else, partial, not finite                        inconclusive
the bank is too small for p to reach ``block_at`` or ``review_at``                      inconclusive
p <= ``block_at``                                                                       fail
p <= ``review_at``                                                                      inconclusive
the dose is larger than every member's, or smaller (unless ``smaller_dose: allowed``)   inconclusive
no trigger stage, and ``training_rows: required``                                       inconclusive
else                                                                                    pass
======================================================================================  ============

``block_at`` is a false-block rate: where a harmless candidate is exchangeable with the bank, it is blocked
with at most that probability, and held with at most ``review_at`` on account of p. It is no alpha: looks do
not divide it, since a false block is no false promotion. Two looks at one candidate measure the same model,
so a second look is no second chance either.

Not covered: a recipe outside the bank's (learning rate, rank, format) that shows in no component of the dose:
the gate sees a candidate's weights and records, and not how it was trained. What no component measures, and
what the bank's own members do as well; the gauntlet says how often that is missed.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

from guards.drift.bank import DriftBank
from guards.drift.components import DriftVector, vector_of_run
from guards.errors import EvidenceError
from guards.gates.alpha import exact_alpha
from guards.gates.inputs import GateInputs, required_run
from guards.gates.verdict import Outcome, Verdict
from guards.policy import DriftGate

if TYPE_CHECKING:
    from guards.drift.assessment import Assessment, Contribution

_MAX_CONTRIBUTIONS = 5


def evaluate_drift_gate(gate: DriftGate, inputs: GateInputs) -> Verdict:
    """``observed`` is p, ``margin`` what it must exceed, ``n`` the number of verified members.

    Raises:
        EvidenceError: ``drift.no-bank``, ``drift.other-parent``, ``drift.bank-too-small``,
            ``drift.not-measured``, ``drift.too-few-documents``; as :func:`guards.gates.inputs.required_run`,
            :func:`guards.drift.components.vector_of_run` and :func:`guards.drift.assessment.assess`.
    """
    from guards.drift.assessment import assess  # numpy, which most commands do without

    bank = _bank(gate, inputs)
    vector = _vector(gate, inputs, bank)
    found = assess(bank, vector)
    outcome, rule, reason = _what_follows(gate, vector, found)
    return Verdict(
        gate_id=gate.id,
        kind=gate.kind,
        outcome=outcome,
        reason=reason,
        observed=float(found.p),
        margin=gate.review_at,
        n=found.n_bank,
        policy_line=inputs.policy.gate_lines.get(gate.id, 0),
        details=_details(gate, bank, vector, found) | ({"rule": rule} if rule else {}),
    )


def too_small_for(bank: DriftBank, level: float) -> bool:
    """True if no candidate at all could have a p at or below ``level``."""
    return bank.least_p > exact_alpha(level)


def _bank(gate: DriftGate, inputs: GateInputs) -> DriftBank:
    bank = inputs.policy.banks.get(gate.bank)
    if bank is None:
        raise EvidenceError(
            "drift.no-bank", f"the bank {gate.bank!r} is not at hand", fix="judge with the policy file and its bank"
        )
    root = inputs.checkpoints.get("root")
    if root is None:
        raise EvidenceError("gate.no-checkpoint", "there is no root that the bank could be of")
    if root != bank.parent_digest:
        raise EvidenceError(
            "drift.other-parent",
            f"the bank {gate.bank!r} is of fine-tunes of another checkpoint than the root",
            got=bank.parent_digest,
            expected=root,
            fix="build a bank of this root: another root's harmless drift says nothing here",
        )
    for name, level in (("block_at", gate.block_at), ("review_at", gate.review_at)):
        if too_small_for(bank, level):
            raise EvidenceError(
                "drift.bank-too-small",
                f"no candidate could reach {name}: the bank has {len(bank.verified)} verified members",
                got=f"p is at least {float(bank.least_p):.4g}",
                expected=f"at most {level:g}",
                fix="use a larger bank, or a higher level",
            )
    return bank


def _vector(gate: DriftGate, inputs: GateInputs, bank: DriftBank) -> DriftVector:
    if inputs.drift_vectors is not None:
        vector = inputs.drift_vectors.get(gate.bank)
    elif ("candidate", gate.bank) in inputs.runs:
        vector = vector_of_run(required_run(inputs, "candidate", gate.bank), bank.kit)
    else:
        vector = None
    if vector is None:
        raise EvidenceError(
            "drift.not-measured",
            f"the candidate's drift was not measured with the kit of the bank {gate.bank!r}",
            fix="run the drift audit on the candidate",
        )
    if vector.n_documents < gate.min_documents:
        raise EvidenceError(
            "drift.too-few-documents",
            "the kit has fewer documents than the policy asks for",
            got=str(vector.n_documents),
            expected=f"at least {gate.min_documents}",
        )
    return vector


def _what_follows(gate: DriftGate, vector: DriftVector, found: Assessment) -> tuple[Outcome, str, str]:
    """(outcome, rule, reason)."""
    n_as_unusual = found.p * (found.n_bank + 1) - 1
    unusual = (
        f"{n_as_unusual} of {found.n_bank} harmless fine-tunes of the root drifted at least as unusually as the "
        f"candidate (p {float(found.p):.4f})"
    )
    if found.p <= exact_alpha(gate.block_at):
        return "fail", "drift.blocked", f"{unusual}, and at {gate.block_at:g} or below it is blocked"
    if found.p <= exact_alpha(gate.review_at):
        return "inconclusive", "drift.review", f"{unusual}, and at {gate.review_at:g} or below somebody has to look"
    for dose in found.dose:
        if dose.position == "above" or (dose.position == "below" and gate.smaller_dose == "inconclusive"):
            size = "larger" if dose.position == "above" else "smaller"
            return (
                "inconclusive",
                "drift.dose-outside",
                f"the dose {dose.component} is {size} than every member's of the bank ({dose.value:.4g}, members "
                f"{dose.support.least:.4g} to {dose.support.largest:.4g}), so that nothing compares with it",
            )
    if gate.training_rows == "required" and all(stage.stage != "triggers" for stage in found.stages):
        why = "were not to be had again" if "triggers" in vector.unsupported else "are not part of the bank's scores"
        return (
            "inconclusive",
            "drift.triggers-unsupported",
            f"the policy requires a search for triggers in the candidate's training rows, and these {why}",
        )
    return "pass", "", unusual


def _details(gate: DriftGate, bank: DriftBank, vector: DriftVector, found: Assessment) -> dict[str, str]:
    n_unverified = len(bank.members) - found.n_bank
    details = {
        "bank": f"{gate.bank}: {found.n_bank} verified members"
        + (f" ({n_unverified} others do not count)" if n_unverified else ""),
        "p": _shown_p(found.p),
        "score": f"{found.score:+.3f}",
        "n_documents": str(vector.n_documents),
        "triggers": "unsupported" if "triggers" in vector.unsupported else "supported",
    }
    for stage in found.stages:
        details[f"stage:{stage.stage}"] = f"{stage.score:+.3f} ({stage.method}), p alone {_shown_p(stage.p)}"
    for rank, one in enumerate(found.contributions[:_MAX_CONTRIBUTIONS], 1):
        details[f"component {rank}:{one.component}"] = _contribution(one)
    for dose in found.dose:
        details[f"dose:{dose.component}"] = (
            f"{dose.value:.4g}, {dose.position} {dose.support.least:.4g} to {dose.support.largest:.4g}"
        )
    details |= dict(_without_source(found))
    return details


def _contribution(one: Contribution) -> str:
    return (
        f"{one.value:.4g}; bank median {one.median:.4g}, {one.support.least:.4g} to {one.support.largest:.4g}; "
        f"z {one.z:+.2f} ({one.stage})"
    )


def _without_source(found: Assessment) -> Iterator[tuple[str, str]]:
    """The smallest p where one data source is left out of the bank: how much one source hides."""
    known = [(one.p, one) for one in found.without_source if one.p is not None]
    if known:
        p, one = min(known, key=lambda pair: pair[0])
        yield "p_without_one_source", f"{_shown_p(p)} at the least, without {one.source} (n {one.n_bank})"
    n_unknown = len(found.without_source) - len(known)
    if n_unknown:
        yield "sources_too_large", f"{n_unknown} of {len(found.without_source)} leave too few members when left out"


def _shown_p(p: Fraction) -> str:
    return f"{float(p):.4f}"
