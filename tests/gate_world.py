"""A small world for gate tests: a policy on disk, runs on disk, and the inputs that join them.

Runs are written and read back through ``guards.evidence``, so that what gates see here has passed
the same checks as real evidence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from guards.canonical import canonical_bytes, canonical_lines, sha256_bytes, sha256_file
from guards.contamination import TrainingRow
from guards.evidence import (
    Cost,
    EvidenceRun,
    Outcome,
    Record,
    RunManifest,
    Scored,
    Unscored,
    read_run,
    salt_for,
    salted_digest,
)
from guards.gates.alpha import plan_of
from guards.gates.inputs import BudgetState, GateInputs
from guards.manifest import CheckpointFacts
from guards.policy import ResolvedPolicy, resolve_policy

DIGEST = {role: sha256_bytes(role.encode()) for role in ("candidate", "champion", "root", "anchor")}
DRAW_SEED = sha256_bytes(b"the seed of this look")
CODE = sha256_bytes(b"the program")

EVAL_GATE: dict[str, Any] = {
    "id": "refusal-holds",
    "kind": "eval",
    "suite": "refusal",
    "metric": "refused",
    "claim": "non_inferior_within",
    "margin": 0.1,
    "against": "champion",
    "alpha": 0.05,
    "min_items": 50,
    "max_unscored": 0.02,
}
FACTS = CheckpointFacts(
    model_type="llama",
    architectures=("LlamaForCausalLM",),
    vocab_size=100,
    n_parameters=1000,
    architecture_digest=sha256_bytes(b"architecture"),
    tensors_digest=sha256_bytes(b"tensors"),
    tokenizer_digest=sha256_bytes(b"tokenizer"),
    chat_template_digest=sha256_bytes(b"template"),
    generation_config_digest=sha256_bytes(b"generation"),
    dtype="bfloat16",
)


def policy_body(*gates: Mapping[str, Any], planned: int = 1, **changes: Any) -> dict[str, Any]:
    """A policy as plain data, with the suites ``refusal`` and ``tasks``; JSON is YAML too."""
    return {
        "schema": "stairlock/policy/v1",
        "name": "test",
        "description": "for tests",
        "looks": {"planned": planned},
        "suites": {"refusal": "refusal.yaml", "tasks": "tasks.yaml"},
        "gates": list(gates),
        "approvals": {"required": 2, "roles": ["reviewer", "safety"]},
        **changes,
    }


def write_policy(directory: Path, body: Mapping[str, Any]) -> Path:
    """The policy and the suites it names, as files; returns the policy's path. Holdouts have an item file."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("refusal", "tasks"):
        items = f"{{file: {name}.jsonl}}" if name in body.get("holdouts", {}) else "[1, 2]"
        (directory / f"{name}.yaml").write_text(f"name: {name}\nitems: {items}\n")
        (directory / f"{name}.jsonl").write_text(f'{{"of": "{name}"}}\n')
    path = directory / "policy.yaml"
    path.write_text(json.dumps(body, indent=1))
    return path


def make_policy(directory: Path, *gates: Mapping[str, Any], planned: int = 1, **changes: Any) -> ResolvedPolicy:
    return resolve_policy(write_policy(directory, policy_body(*gates, planned=planned, **changes)))


def make_run(
    directory: Path,
    policy: ResolvedPolicy,
    role: str,
    scores: Sequence[float | None],
    *,
    suite: str = "refusal",
    metric: str = "refused",
    outputs: Sequence[str | None] | None = None,
    prompts: Sequence[str] | None = None,
    clusters: Sequence[str] | None = None,
    n_output_tokens: int = 10,
    item_prefix: str = "item",
    **manifest_changes: Any,
) -> EvidenceRun:
    """Write a run of ``len(scores)`` items and read it back; a score of None is an unscored item."""
    out = directory / f"{role}-{suite}"
    out.mkdir(parents=True)
    records, texts = [], []
    for i, score in enumerate(scores):
        item_id = f"{item_prefix}-{i:04d}"
        prompt = prompts[i] if prompts is not None else f"the question of item number {i}"
        output = outputs[i] if outputs is not None else f"the answer is {i}"
        outcome: Outcome = Unscored(reason="timed-out") if score is None else Scored(scores={metric: score})
        salt = salt_for(b"key", DIGEST.get(role, role), item_id)
        records.append(
            Record(
                item_id=item_id,
                cluster=clusters[i] if clusters is not None else "all",
                prompt_digest=sha256_bytes(prompt.encode()),
                output_digest=None if output is None else salted_digest(salt, output),
                outcome=outcome,
                n_output_tokens=n_output_tokens,
                engine="fake-1",
                dtype="bfloat16",
                batch="0",
                seed=0,
            )
        )
        texts.append({"item_id": item_id, "prompt": prompt, "output": output, "salt": salt})
    for name, lines in (("records", records), ("texts", texts), ("timings", [])):
        (out / f"{name}.jsonl").write_bytes(canonical_lines(lines))
    manifest: dict[str, Any] = {
        "schema": "stairlock/evidence-run/v1",
        "checkpoint_digest": DIGEST.get(role, role),
        "suite_name": suite,
        "suite_digest": policy.suite_digests[suite],
        "draw_seed_digest": DRAW_SEED,
        "n_items": len(records),
        **{f"{name}_sha256": sha256_file(out / f"{name}.jsonl") for name in ("records", "texts", "timings")},
        "engine": "fake-1",
        "device": "cpu",
        "dtype": "bfloat16",
        "batch_plan": "one",
        "code_digest": CODE,
        "cost": Cost(wall_ms=1).model_dump(),
        **manifest_changes,
    }
    (out / "manifest.json").write_bytes(canonical_bytes(RunManifest.model_validate(manifest).model_dump(by_alias=True)))
    return read_run(out)


def make_inputs(policy: ResolvedPolicy, *runs: EvidenceRun, look: int = 1, **changes: Any) -> GateInputs:
    """Inputs with these runs under the roles of their checkpoints, and everything else in order."""
    role_by_digest = {digest: role for role, digest in DIGEST.items()}
    inputs = GateInputs(
        policy=policy,
        look=look,
        earlier_looks=(plan_of(policy.policy),) * max(0, look - 1),
        holdout_reads=dict.fromkeys(policy.suite_digests.values(), max(0, look - 1)),
        draw_seed_digest=DRAW_SEED,
        checkpoints=DIGEST,
        runs={(role_by_digest[r.manifest.checkpoint_digest], r.manifest.suite_name): r for r in runs},
        facts={"candidate": FACTS, "champion": FACTS, "root": FACTS},
        training_rows=(TrainingRow(row_id="r1", prompt="Name a colour.", answer="Blue."),),
        budget=BudgetState(cycles_without_person=0, cost_s=1.0, tokens_trained=10),
    )
    return replace(inputs, **changes)


def with_scores(run: EvidenceRun, scores: Sequence[float]) -> EvidenceRun:
    """The first ``len(scores)`` items of ``run``, scored anew; in memory only."""
    records = tuple(
        record.model_copy(update={"outcome": Scored(scores={"refused": score})})
        for record, score in zip(run.records, scores, strict=False)
    )
    manifest = run.manifest.model_copy(update={"n_items": len(records)})
    return run.model_copy(update={"records": records, "manifest": manifest})


def binary(n: int, n_ones: int) -> list[float | None]:
    """``n`` scores of which the first ``n_ones`` are 1."""
    return [1.0 if i < n_ones else 0.0 for i in range(n)]
