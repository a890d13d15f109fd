"""How the drift gates of a policy fit their banks: can each block, hold and pass anything at all?

Not covered: what the bank's scores detect (the gauntlet measures it), and whether its members are like the
candidates that will be judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from guards.authoring.policy_fit import Severity
from guards.drift.bank import DriftBank
from guards.gates.drift import too_small_for
from guards.policy import DriftGate, Policy
from guards.yaml_positions import Finding, PositionMap, YamlPath


def drift_findings(
    policy: Policy, positions: PositionMap, banks: Mapping[str, DriftBank]
) -> Iterator[tuple[Severity, Finding]]:
    """What is wrong with each drift gate whose bank could be read."""
    for gate, at in policy.gates_with_paths():
        if isinstance(gate, DriftGate) and gate.bank in banks:
            yield from _of_gate(gate, at, positions, banks[gate.bank])


def _of_gate(
    gate: DriftGate, at: YamlPath, positions: PositionMap, bank: DriftBank
) -> Iterator[tuple[Severity, Finding]]:
    n = len(bank.verified)
    for name, level, does in (("block_at", gate.block_at, "block"), ("review_at", gate.review_at, "hold")):
        if too_small_for(bank, level):
            yield (
                "error",
                Finding(
                    "drift.bank-too-small",
                    positions.at(*at, name),
                    f"{gate.id} could never {does} by p: the bank {gate.bank!r} has {n} verified members, so that p is "
                    f"at least {float(bank.least_p):.4g}",
                    got=f"{level:g}",
                    expected=f"at least {float(bank.least_p):.4g}",
                    fix="use a larger bank, or a higher level",
                    path=(*at, name),
                ),
            )
    n_documents = len(bank.kit.documents)
    if n_documents < gate.min_documents:
        yield (
            "error",
            Finding(
                "drift.too-few-documents",
                positions.at(*at, "min_documents"),
                f"{gate.id} asks for more documents than the kit of the bank {gate.bank!r} has",
                got=str(n_documents),
                expected=f"at least {gate.min_documents}",
                fix="use a bank with a larger kit, or lower min_documents",
                path=(*at, "min_documents"),
            ),
        )
    if gate.training_rows == "required" and "triggers" not in bank.scoring.stages:
        yield (
            "error",
            Finding(
                "drift.triggers-unsupported",
                positions.at(*at),
                f"{gate.id} requires a search for triggers in training rows, and the bank {gate.bank!r} scores none",
                fix="declare training_rows: optional, or use a bank that scores triggers",
                path=at,
            ),
        )
