"""Does every non-inferiority gate of default.yaml block a checkpoint that really got worse?

``python -m benchmarks.assay_sensitivity --home DIR --pair LABEL=DEGRADED,CHAMPION,ROOT ... --out FILE``

Each pair is three checkpoint directories. The degraded one answers as the candidate, against the
champion and the root (which is the anchor), on one fresh draw, at the alpha of the policy's first
look. A gate that no degraded checkpoint fails has not been shown to measure anything.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from guards.canonical import sha256_bytes
from guards.gates.evaluate import evaluate_gate
from guards.gates.inputs import GateInputs, Role
from guards.policy import EvalGate, ResolvedPolicy, resolve_policy
from loop.backends.local import LocalBackend
from loop.console import show_steps
from loop.gating import measure
from loop.home import Home
from loop.recorded_steps import RecordedSteps
from loop.sealed_checkpoints import seal

POLICY = Path(__file__).resolve().parents[1] / "policies" / "default.yaml"


def non_inferiority_gates(policy: ResolvedPolicy, only: Sequence[str] = ()) -> list[EvalGate]:
    """The gates whose claim is that nothing got worse by more than a margin, or stays above a floor."""
    return [
        gate
        for gate in policy.policy.leaf_gates()
        if isinstance(gate, EvalGate)
        and gate.claim in ("non_inferior_within", "at_least")
        and (not only or gate.id in only)
    ]


def judge(
    home: Home,
    steps: RecordedSteps,
    policy: ResolvedPolicy,
    gates: Sequence[EvalGate],
    label: str,
    roles: dict[Role, str],
) -> dict[str, dict[str, object]]:
    """Verdict of every gate on one pair."""
    seed = hashlib.sha256(f"assay/{label}".encode()).digest()
    suites = frozenset(gate.suite for gate in gates)
    runs = measure(
        home,
        steps,
        policy,
        seed,
        roles={(role, digest): suites for role, digest in roles.items() if role != "anchor"},
        name=label,
        candidate=None,
    )
    inputs = GateInputs(
        policy=policy,
        look=1,
        draw_seed_digest=sha256_bytes(seed),
        holdout_reads=dict.fromkeys(policy.suite_digests.values(), 0),
        checkpoints=roles,
        runs={(role, suite): run for (role, _digest, suite), run in runs.items()},
    )
    verdicts = {gate.id: evaluate_gate(gate, inputs) for gate in gates}
    return {
        gate: {"outcome": v.outcome, "observed": v.observed, "bound": v.bound, "required": v.margin, "n": v.n}
        for gate, v in verdicts.items()
    }


def main() -> None:
    """Judge every pair and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--pair", action="append", required=True, metavar="LABEL=DEGRADED,CHAMPION,ROOT")
    parser.add_argument("--gate", action="append", default=[], help="only this gate; may be repeated")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    home, policy = Home.open(args.home), resolve_policy(POLICY)
    gates = non_inferiority_gates(policy, args.gate)
    result: dict[str, object] = {"policy": policy.digest}
    with show_steps() as stage:
        steps = RecordedSteps(home, LocalBackend(), stage, actor="benchmark", run=None)
        for entry in args.pair:
            label, _, paths = entry.partition("=")
            degraded, champion, root = (seal(Path(path), home.path)[1].digest for path in paths.split(","))
            roles: dict[Role, str] = {"candidate": degraded, "champion": champion, "root": root, "anchor": root}
            result[label] = judge(home, steps, policy, gates, label, roles)
    blocked = {
        gate.id: [
            label
            for label, by_gate in result.items()
            if isinstance(by_gate, dict) and by_gate[gate.id]["outcome"] == "fail"
        ]
        for gate in gates
    }
    result["blocked_by"] = blocked
    print(json.dumps(blocked, indent=1))
    args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
