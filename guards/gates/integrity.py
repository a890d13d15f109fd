"""The integrity gate: a candidate differs from its reference in the weights, and else as declared.

A change of tokenizer, chat template, generation config, architecture or dtype changes what every
suite measures, so it must be declared in the policy.

Not covered: what the weights have become (that is what the other gates are for), and files that a
manifest does not allow, which sealing refuses before this gate runs.
"""

from __future__ import annotations

from guards.errors import EvidenceError
from guards.gates.inputs import GateInputs
from guards.gates.verdict import Verdict
from guards.manifest import CheckpointFacts
from guards.policy import Change, IntegrityGate

_ATTRIBUTES: tuple[tuple[str, Change], ...] = (
    ("architecture_digest", "architecture"),
    ("tensors_digest", "architecture"),
    ("tokenizer_digest", "tokenizer"),
    ("chat_template_digest", "chat_template"),
    ("generation_config_digest", "generation_config"),
    ("dtype", "dtype"),
)


def evaluate_integrity_gate(gate: IntegrityGate, inputs: GateInputs) -> Verdict:
    """Compare the facts of candidate and reference; ``n`` is the number of facts compared.

    Raises:
        EvidenceError: ``gate.no-facts``.
    """
    candidate, reference = _facts(inputs, "candidate"), _facts(inputs, gate.against)
    details: dict[str, str] = {"against": gate.against}
    undeclared: list[str] = []
    for attribute, change in _ATTRIBUTES:
        got, expected = str(getattr(candidate, attribute)), str(getattr(reference, attribute))
        if got == expected:
            continue
        allowed = change in gate.allow_changes
        details[attribute] = f"{got}, {gate.against} has {expected}{' (declared)' if allowed else ''}"
        if not allowed and change not in undeclared:
            undeclared.append(change)
    if undeclared:
        details["rule"] = "gate.undeclared-change"
        reason = f"the candidate's {', '.join(undeclared)} changed, and the policy does not allow it"
    else:
        reason = f"nothing but the weights and what the policy declares differs from the {gate.against}"
    return Verdict(
        gate_id=gate.id,
        kind=gate.kind,
        outcome="fail" if undeclared else "pass",
        reason=reason,
        n=len(_ATTRIBUTES),
        policy_line=inputs.policy.gate_lines.get(gate.id, 0),
        details=details,
    )


def _facts(inputs: GateInputs, role: str) -> CheckpointFacts:
    facts = next((facts for name, facts in inputs.facts.items() if name == role), None)
    if facts is None:
        raise EvidenceError("gate.no-facts", f"the files of the {role} were not described")
    return facts
