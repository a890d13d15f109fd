"""The budget gate: how far the loop may go before a person looks, and what it may cost.

Not covered: cost that was not recorded.
"""

from __future__ import annotations

from guards.errors import EvidenceError
from guards.gates.inputs import GateInputs
from guards.gates.verdict import Verdict
from guards.policy import BudgetGate


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
