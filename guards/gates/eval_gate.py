"""The eval gate: one claim about one metric of one suite, tested one-sided at this look's alpha.

Numbered in the order in which they are checked:

(1) some alpha is left for this look (:mod:`guards.gates.look_alpha`), else inconclusive
(2) the evidence is of the right checkpoints, suite, draw, items and engine, every scored item has the
    metric, and every item the source that it is grouped by, else inconclusive
    (a run that was stopped early goes to :mod:`guards.gates.early_stop` from here)
(3) to (7) what :mod:`guards.gates.table_verdict` decides on the table of outcomes: enough items, few of
    them unscored, scores in range, the binding test

Not covered: what the suite does not ask, and a machine that measures falsely.
"""

from __future__ import annotations

from guards.gates.early_stop import judge_partial, stoppable_suites
from guards.gates.eval_table import table_for
from guards.gates.inputs import GateInputs
from guards.gates.look_alpha import alpha_of_gate, read_in_words
from guards.gates.table_verdict import judge_table
from guards.gates.verdict import Verdict
from guards.policy import EvalGate


def evaluate_eval_gate(gate: EvalGate, inputs: GateInputs) -> Verdict:
    """Test the gate's claim; see the module's docstring.

    Raises:
        EvidenceError: evidence that cannot be read as what the gate asks for. The caller turns it
            into an inconclusive verdict.
    """
    alpha = alpha_of_gate(gate, inputs)  # (1)
    table = table_for(gate, inputs)  # (2)
    judge = None if gate.judge is None else inputs.policy.policy.judges[gate.judge]
    policy_line, details = inputs.policy.gate_lines.get(gate.id, 0), read_in_words(gate, inputs)
    if table.pending and gate.suite in stoppable_suites(inputs.policy.policy):
        return judge_partial(gate, table, alpha, judge=judge, policy_line=policy_line, details=details)
    return judge_table(gate, table, alpha, judge=judge, policy_line=policy_line, details=details)
