"""The contamination gate: the candidate was not trained on what its gates ask.

Not covered: what :mod:`guards.contamination` does not, and the reference's own training rows.
"""

from __future__ import annotations

from guards.contamination import GateText, find_contamination
from guards.errors import EvidenceError
from guards.gates.inputs import GateInputs, required_run
from guards.gates.verdict import Verdict
from guards.policy import ContaminationGate
from guards.run_texts import read_texts

_MAX_SHOWN = 5


def evaluate_contamination_gate(gate: ContaminationGate, inputs: GateInputs) -> Verdict:
    """Look for gate items among the training rows; ``observed`` is the number of hits, ``n`` of gate items.

    Raises:
        EvidenceError: as :func:`guards.gates.inputs.required_run` and
            :func:`guards.run_texts.read_texts`; ``gate.no-training-rows`` where the rows are not
            known or there are none; ``gate.no-prompts`` for an item without text.
    """
    if not inputs.training_rows:
        raise EvidenceError(
            "gate.no-training-rows",
            "the rows that the candidate was trained on are not known",
            fix="where training is unknown, use a policy without a contamination gate, such as checkpoint.yaml",
        )
    gate_texts = [text for suite in gate.suites for text in _gate_texts(inputs, suite)]
    hits = find_contamination(inputs.training_rows, gate_texts, inputs.template_texts, n=gate.ngram)
    n_equal = sum(hit.kind == "equal" for hit in hits)
    details = {
        "n_training_rows": str(len(inputs.training_rows)),
        "n_equal": str(n_equal),
        "n_sharing_words": str(len(hits) - n_equal),
        "suites": ", ".join(gate.suites),
    }
    if hits:
        details["rule"] = "gate.contaminated"
        details["hits"] = "; ".join(f"{hit.row_id} has seen {hit.suite}/{hit.item_id}" for hit in hits[:_MAX_SHOWN])
        reason = f"{len(hits)} times a training row equals a gate item or shares {gate.ngram} words in a row with one"
    else:
        reason = f"no training row equals a gate item or shares {gate.ngram} words in a row with one"
    return Verdict(
        gate_id=gate.id,
        kind=gate.kind,
        outcome="fail" if hits else "pass",
        reason=reason,
        observed=float(len(hits)),
        margin=0.0,
        n=len(gate_texts),
        policy_line=inputs.policy.gate_lines.get(gate.id, 0),
        details=details,
    )


def _gate_texts(inputs: GateInputs, suite: str) -> list[GateText]:
    texts = read_texts(required_run(inputs, "candidate", suite))
    blank = next((item_id for item_id, text in texts.items() if not text.prompt.strip()), None)
    if blank is not None:
        raise EvidenceError("gate.no-prompts", f"item {blank!r} of suite {suite!r} has no text to look for")
    return [GateText(suite=suite, item_id=item_id, text=text.prompt) for item_id, text in texts.items()]
