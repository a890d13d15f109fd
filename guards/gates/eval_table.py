"""From the evidence that an eval gate is given to the score table that it is judged by."""

from __future__ import annotations

from guards.gates.inputs import GateInputs, comparable_runs, required_run
from guards.gates.score_table import ScoreTable, table_of
from guards.policy import EvalGate


def table_for(gate: EvalGate, inputs: GateInputs) -> ScoreTable:
    """The gate's table over all clusters: from ``inputs.tables`` where that is given, else from the runs."""
    return table_from_runs(gate, inputs) if inputs.tables is None else inputs.tables.table(gate, inputs)


def table_from_runs(gate: EvalGate, inputs: GateInputs) -> ScoreTable:
    """The table of the runs that the gate compares, if they are evidence for this look and alike.

    Partial runs have the items that they did not answer in ``pending``.

    Raises:
        EvidenceError: as :func:`guards.gates.inputs.comparable_runs` and
            :func:`guards.gates.score_table.table_of`.
    """
    if gate.against is None:
        return table_of(gate.metric, gate.group_by, required_run(inputs, "candidate", gate.suite, may_be_partial=True))
    candidate, reference = comparable_runs(inputs, gate.against, gate.suite, gate_id=gate.id, may_be_partial=True)
    return table_of(gate.metric, gate.group_by, candidate, reference)
