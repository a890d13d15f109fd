"""From gates to verdicts: the one place that dispatches on a gate's kind.

Evidence that is missing, stale, partial or about something else is never a pass: whatever a gate
refuses to read becomes an inconclusive verdict that names the rule. A programming error is not
evidence, and escapes.
"""

from __future__ import annotations

from typing import assert_never

from guards.errors import StairlockError
from guards.gates.budget import evaluate_budget_gate
from guards.gates.collapse import evaluate_collapse_gate
from guards.gates.composite import evaluate_composite_gate
from guards.gates.contamination_gate import evaluate_contamination_gate
from guards.gates.drift import evaluate_drift_gate
from guards.gates.eval_gate import evaluate_eval_gate
from guards.gates.inputs import GateInputs
from guards.gates.integrity import evaluate_integrity_gate
from guards.gates.verdict import Verdict
from guards.policy import (
    AllOfGate,
    AnyOfGate,
    BudgetGate,
    CollapseGate,
    ContaminationGate,
    DriftGate,
    EvalGate,
    Gate,
    IntegrityGate,
    OnlyIfGate,
)


def evaluate_gates(inputs: GateInputs) -> tuple[Verdict, ...]:
    """One verdict for every gate of the policy, in its order."""
    return tuple(evaluate_gate(gate, inputs) for gate in inputs.policy.policy.gates)


def evaluate_gate(gate: Gate, inputs: GateInputs) -> Verdict:
    """The gate's verdict. Unreadable evidence makes it inconclusive; see the module's docstring."""
    try:
        return _evaluate(gate, inputs)
    except StairlockError as error:
        got = f" (got {error.got})" if error.got else ""
        expected = f" (expected {error.expected})" if error.expected else ""
        return Verdict(
            gate_id=gate.id,
            kind=gate.kind,
            outcome="inconclusive",
            reason=f"[{error.rule}] {error.message}{got}{expected}",
            policy_line=inputs.policy.gate_lines.get(gate.id, 0),
            details={"rule": error.rule, "what_to_do": error.fix},
        )


def _evaluate(gate: Gate, inputs: GateInputs) -> Verdict:
    match gate:
        case EvalGate():
            return evaluate_eval_gate(gate, inputs)
        case IntegrityGate():
            return evaluate_integrity_gate(gate, inputs)
        case CollapseGate():
            return evaluate_collapse_gate(gate, inputs)
        case ContaminationGate():
            return evaluate_contamination_gate(gate, inputs)
        case BudgetGate():
            return evaluate_budget_gate(gate, inputs)
        case DriftGate():
            return evaluate_drift_gate(gate, inputs)
        case AllOfGate() | AnyOfGate() | OnlyIfGate():
            return evaluate_composite_gate(gate, inputs, evaluate_gate)
        case _:
            assert_never(gate)
