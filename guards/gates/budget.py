"""The budget gate: how far the loop may go before a person looks, and what it may cost.

Not covered: cost that was not recorded, such as that of a step whose program was killed with it, or
of answering the items of the very look that is being judged (it counts for the next one).
"""

from __future__ import annotations

from guards.entries import DecisionMade, SignedOff, StepFinished
from guards.errors import EvidenceError
from guards.gates.inputs import BudgetState, GateInputs
from guards.gates.verdict import Verdict
from guards.history import History
from guards.policy import BudgetGate


def used_since_a_person(history: History) -> BudgetState:
    """What the loop has used since a person last signed about a candidate, the next candidate included.

    Counted are the looks that were decided after the latest look that anybody signed about was: the
    signature says nothing about those. So a signature about an older candidate does not begin the
    count again. Costs are those of all steps that ended in the same time, in whatever run, failed
    ones included. That the root was judged is no cycle.
    """
    first_decided: dict[int, tuple[int, str]] = {}  # look -> (entry of its first decision, candidate)
    for kind in ("promote", "hold", "reject"):
        for entry in history.entries(kind=kind):
            if isinstance(entry.body, DecisionMade):
                look, seen = entry.body.look_seq, first_decided.get(entry.body.look_seq)
                if seen is None or entry.seq < seen[0]:
                    first_decided[look] = (entry.seq, entry.body.candidate)
    signed = [entry.body.look_seq for entry in history.entries(kind="signoff") if isinstance(entry.body, SignedOff)]
    since = max((first_decided[look][0] for look in signed if look in first_decided), default=-1)
    root = history.root()
    root_digest = None if root is None else root.body.checkpoint
    n_judged = sum(seq > since and candidate != root_digest for seq, candidate in first_decided.values())
    costs = [
        entry.body.cost
        for entry in history.entries(kind="step_finished")
        if isinstance(entry.body, StepFinished) and entry.body.cost is not None and entry.seq > since
    ]
    return BudgetState(
        cycles_without_person=n_judged + 1,
        cost_s=sum(cost.wall_ms for cost in costs) / 1000,
        tokens_trained=sum(cost.tokens_trained for cost in costs),
    )


def evaluate_budget_gate(gate: BudgetGate, inputs: GateInputs) -> Verdict:
    """Compare what was used with the limits, which are inclusive; shows the first that is exceeded.

    Raises:
        EvidenceError: ``gate.no-budget``.
    """
    used = inputs.budget
    if used is None:
        raise EvidenceError("gate.no-budget", "what the loop has used so far is not known")
    limits = (
        ("cycles without a person", float(used.cycles_without_person), float(gate.max_cycles_without_person)),
        ("seconds", used.cost_s, float(gate.max_cost_s)),
        ("tokens trained", float(used.tokens_trained), gate.max_tokens_trained),
    )
    declared = [(name, value, float(limit)) for name, value, limit in limits if limit is not None]
    exceeded = [entry for entry in declared if entry[1] > entry[2]]
    name, value, limit = (exceeded or declared)[0]
    details = {what: f"{got:g} of {most:g}" for what, got, most in declared}
    if exceeded:
        details["rule"] = "gate.over-budget"
    return Verdict(
        gate_id=gate.id,
        kind=gate.kind,
        outcome="fail" if exceeded else "pass",
        reason=f"{value:g} {name} of {limit:g} are used{'' if exceeded else ', and the other limits hold'}",
        observed=value,
        margin=limit,
        policy_line=inputs.policy.gate_lines.get(gate.id, 0),
        details=details,
    )
