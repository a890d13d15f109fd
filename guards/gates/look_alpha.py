"""The alpha that one look leaves to one gate: what the schedule gives, divided by the reads of a holdout.

Gates test at it (:func:`alpha_of_gate`), and the log takes no passed test that says more
(:func:`overspent`), so that neither a caller nor an edit of the log can spend alpha twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction

from guards.errors import EvidenceError
from guards.gates.alpha import LEAST_ALPHA, LookPlan, alpha_of_look, alpha_parts, exact_alpha, rounded_down
from guards.gates.holdouts import divided_by_reads
from guards.gates.inputs import GateInputs
from guards.gates.verdict import Verdict
from guards.policy import CompositeGate, EvalGate, Gate, Policy


def alpha_of_gate(gate: EvalGate, inputs: GateInputs) -> float:
    """At which alpha this look tests the gate; above 0, and rounded down.

    Raises:
        EvidenceError: as :func:`alpha_left`.
    """
    return rounded_down(
        alpha_left(
            gate,
            inputs.policy.policy,
            look=inputs.look,
            earlier=inputs.earlier_looks,
            n_earlier_reads=_recorded_reads(gate, inputs),
        )
    )


def alpha_left(
    gate: EvalGate, policy: Policy, *, look: int, earlier: Sequence[LookPlan], n_earlier_reads: int | None
) -> Fraction:
    """What look number ``look`` may spend on the gate, above 0.

    ``earlier`` are the plans of the looks before it, and ``n_earlier_reads`` says how often the gate's
    suite was read before, which counts only where the policy declares it a holdout; None is unknown.

    Raises:
        EvidenceError: ``gate.alpha-spent``, ``gate.earlier-looks``, ``gate.holdout-spent``,
            ``gate.holdout-reads``.
    """
    if look < 1 or (look > policy.looks.planned and policy.looks.spending != "unbounded"):
        raise EvidenceError(
            "gate.alpha-spent",
            f"look {look} is beyond the {policy.looks.planned} that the policy planned, so no alpha is left",
            fix="where alpha is left, a policy of this name that plans more looks shares it out",
        )
    if len(earlier) != look - 1:
        raise EvidenceError(
            "gate.earlier-looks",
            "what the looks before this one spent is not known",
            got=f"the plans of {len(earlier)} looks",
            expected=str(look - 1),
        )
    part = exact_alpha(gate.alpha) / alpha_parts(policy).get(gate.id, 1)
    alpha = alpha_of_look(gate.id, LookPlan(policy.looks.planned, {gate.id: part}, policy.looks.spending), earlier)
    if alpha <= 0:
        raise EvidenceError(
            "gate.alpha-spent",
            f"the {len(earlier)} looks before, under policies of this name, spent the whole alpha of {gate.alpha:g}",
            fix="only a larger alpha (a larger chance of a false pass over all looks) would leave some",
        )
    if gate.suite in policy.holdouts:
        alpha = divided_by_reads(gate, alpha, _checked_reads(gate, policy, n_earlier_reads))
    if alpha < exact_alpha(LEAST_ALPHA):
        raise EvidenceError(
            "gate.alpha-spent",
            f"so little alpha is left that no test can be computed with it: {float(alpha):.2g} of {gate.alpha:g}",
            expected=f"at least {LEAST_ALPHA:g}",
        )
    return alpha


def overspent(
    policy: Policy,
    verdicts: Iterable[Verdict],
    *,
    look: int,
    earlier: Sequence[LookPlan],
    reads: Mapping[str, int],
) -> Iterator[str]:
    """What is wrong with the alpha of each test that says that it passed; nothing where all is well.

    ``policy`` is a resolved one, with suites by digest, and ``reads`` is by these digests. A test that did
    not pass has spent its look's alpha all the same. Members of composites are tests like the others.

    Not covered: members that are not the policy's (:mod:`guards.gates.contradictions`).
    """
    for gate, verdict in _tests(policy.gates, verdicts):
        if verdict.outcome != "pass":
            continue
        try:
            n_reads = reads.get(policy.suites[gate.suite])
            left = alpha_left(gate, policy, look=look, earlier=earlier, n_earlier_reads=n_reads)
        except EvidenceError as error:
            yield f"{gate.id} passes, but {error.message}"
            continue
        if verdict.alpha is None or not 0 < exact_alpha(verdict.alpha) <= left:
            said = "no alpha" if verdict.alpha is None else f"alpha {verdict.alpha!r}"
            yield f"{gate.id} passes at {said}, and this look may spend {rounded_down(left)!r} on it"


def _tests(gates: Iterable[Gate], verdicts: Iterable[Verdict]) -> Iterator[tuple[EvalGate, Verdict]]:
    """Each test with its verdict, on every level."""
    by_id = {gate.id: gate for gate in gates}
    for verdict in verdicts:
        gate = by_id.get(verdict.gate_id)
        if isinstance(gate, EvalGate):
            yield gate, verdict
        elif isinstance(gate, CompositeGate):
            yield from _tests(gate.members, verdict.members)


def read_in_words(gate: EvalGate, inputs: GateInputs) -> dict[str, str]:
    """For a verdict's details: ``holdout_read`` -> ``3 of 8``; empty where the items are drawn anew."""
    policy = inputs.policy.policy
    holdout = policy.holdouts.get(gate.suite)
    if holdout is None:
        return {}
    n_reads = _checked_reads(gate, policy, _recorded_reads(gate, inputs))
    return {"holdout_read": f"{n_reads + 1} of {holdout.reads}"}


def _recorded_reads(gate: EvalGate, inputs: GateInputs) -> int | None:
    return inputs.holdout_reads.get(inputs.policy.suite_digests[gate.suite])


def _checked_reads(gate: EvalGate, policy: Policy, n_reads: int | None) -> int:
    """How often the gate's holdout was read before, if it may be read once more."""
    if n_reads is None or n_reads < 0:
        raise EvidenceError(
            "gate.holdout-reads", f"how often the items of the suite {gate.suite!r} were read before is not known"
        )
    allowed = policy.holdouts[gate.suite].reads
    if n_reads >= allowed:
        raise EvidenceError(
            "gate.holdout-spent",
            f"the items of the suite {gate.suite!r} were read in {n_reads} looks, of any policy, and are spent",
            expected=f"at most {allowed} reads, this look included",
            fix="replace the suite's item file by one of other items, which no look has read",
        )
    return n_reads
